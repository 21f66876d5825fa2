# /// script
# requires-python = ">=3.11"
# dependencies = ["diffusers-supreme-init"]
# ///
"""One part of a list on a machine that forgets everything: what is trained goes to a library on the Hub, bit by bit.

    python hub_part.py products/metadata.jsonl user/library stable-diffusion-v1-5/stable-diffusion-v1-5 16 3

trains part 3 of 16; start it for 0 to 15, wherever you like. A part is trained in pieces, and each piece is pushed
when it is finished: pushes merge. Started again, it fetches the library and goes on with what is not there yet.
Further arguments are options of `supreme-init train`.
"""

import contextlib
import subprocess
import sys
from pathlib import Path

from huggingface_hub import snapshot_download
from huggingface_hub.errors import RepositoryNotFoundError

PIECES = 8
LIBRARY = Path("library")


def main() -> int:
    """Train and push one piece after the other; return 1 if a concept failed."""
    concepts, repository, model, num_shards, shard_index, *more = sys.argv[1:]
    with contextlib.suppress(RepositoryNotFoundError):
        snapshot_download(repository, local_dir=LIBRARY)
    status = 0
    for piece in range(PIECES):
        train = ["supreme-init", "train", "--concepts", concepts, "--output_dir", str(LIBRARY), "--model", model]
        number = PIECES * int(shard_index) + piece
        part = ["--num_shards", str(PIECES * int(num_shards)), "--shard_index", str(number)]
        ended = subprocess.run([*train, *part, *more], check=False).returncode
        if ended not in (0, 1):
            return ended  # wrong options, interrupted or killed: the next piece would end in the same way
        status |= ended  # a piece in which concepts failed is pushed as well: what is there is whole
        if any(LIBRARY.glob("*/learned_embeds.safetensors")):
            subprocess.run(["supreme-init", "push", str(LIBRARY), repository], check=True)
    return status


if __name__ == "__main__":
    sys.exit(main())
