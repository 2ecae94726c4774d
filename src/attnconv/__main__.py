"""`python -m attnconv`: the command line."""

import sys

from attnconv.cli import main

if __name__ == "__main__":
    sys.exit(main())
