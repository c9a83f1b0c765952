"""What all tests share: caches go to a folder of their own, never to the user's."""

import os
import tempfile

from localize.encoders.torchvision_build import allow_any_torchvision

os.environ["LOCALIZE_CACHE"] = tempfile.mkdtemp(prefix="localize-test-cache-")
allow_any_torchvision()  # before the tests themselves import transformers
