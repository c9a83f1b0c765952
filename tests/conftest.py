"""What all tests share: caches go to a folder of their own, never to the user's."""

import os
import tempfile

os.environ["LOCALIZE_CACHE"] = tempfile.mkdtemp(prefix="localize-test-cache-")
