"""Draw prompts with learned words: the command `supreme-init generate`.

python examples/generate.py "a photo of <mug> on the beach" --concepts out/mug
"""

import sys

from diffusers_supreme_init.commands import main

if __name__ == "__main__":
    sys.exit(main(["generate", *sys.argv[1:]]))
