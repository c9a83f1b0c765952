"""`python -m localize.cli` is the command `localize`."""

import sys

from localize.cli import main

if __name__ == "__main__":
    sys.exit(main())
