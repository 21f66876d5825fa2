"""Convert a learned word between the formats of other programs: the command `supreme-init convert`.

python examples/convert.py out/mug mug.safetensors --format comfyui
"""

import sys

from diffusers_supreme_init.commands import main

if __name__ == "__main__":
    sys.exit(main(["convert", *sys.argv[1:]]))
