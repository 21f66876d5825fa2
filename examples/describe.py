"""What a picture says for itself: the command `supreme-init describe`.

python examples/describe.py desk.jpg --points 412,230
"""

import sys

from diffusers_supreme_init.commands import main

if __name__ == "__main__":
    sys.exit(main(["describe", *sys.argv[1:]]))
