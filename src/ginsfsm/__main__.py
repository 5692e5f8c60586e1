"""`python -m ginsfsm`: the command `ginsfsm`, also where its script is not on the path."""

import sys

from ginsfsm.cli import main

if __name__ == "__main__":
    sys.exit(main())
