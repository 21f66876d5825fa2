"""See which start is ahead after how many steps: the command `supreme-init compare`.

python examples/compare.py mug.jpg --model toybox --initializers caption class "*" --steps 0 10 30 100
"""

import sys

from diffusers_supreme_init.commands import main

if __name__ == "__main__":
    sys.exit(main(["compare", *sys.argv[1:]]))
