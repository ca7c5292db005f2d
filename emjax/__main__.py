"""`python -m emjax` is the `emjax` command."""

import sys

from emjax.cli import main

if __name__ == "__main__":
    sys.exit(main())
