"""`python -m internvl_server`."""

import sys

from internvl_server.cli import main

__all__: list[str] = []

if __name__ == "__main__":
    sys.exit(main())
