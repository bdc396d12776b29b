"""``python -m exml``: the ``exml`` command."""

import sys

from exml.cli import main

if __name__ == "__main__":
    sys.exit(main())
