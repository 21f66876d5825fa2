"""``python -m diffusers_supreme_init``: the same as the command `supreme-init`."""

import sys

from .commands import main

if __name__ == "__main__":
    sys.exit(main())
