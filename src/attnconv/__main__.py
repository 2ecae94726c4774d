"""`python -m attnconv`: the command line."""

from attnconv.cli import entry

if __name__ == "__main__":
    entry()
