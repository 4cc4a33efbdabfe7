"""The command line: `python -m cudaspeed`, of a checkout and an installed package alike."""

import sys

from .cli import main

if __name__ == "__main__":
    sys.exit(main())
