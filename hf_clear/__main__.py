"""`python -m hf_clear`: as the console script `hf-clear`."""

import sys

from .commands import main

if __name__ == "__main__":
    sys.exit(main())
