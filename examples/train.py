"""Teach a model a new word from a picture: the command `supreme-init train`, for `accelerate launch`.

accelerate launch examples/train.py mug.jpg --token "<mug>" \
        --model stable-diffusion-v1-5/stable-diffusion-v1-5 --output_dir out/mug
"""

import sys

from diffusers_supreme_init.commands import main

if __name__ == "__main__":
    sys.exit(main(["train", *sys.argv[1:]]))
