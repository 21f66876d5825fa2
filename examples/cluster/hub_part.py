# /// script
# requires-python = ">=3.11"
# dependencies = ["diffusers-supreme-init"]
# ///
"""One part of a list on a machine that forgets everything: what is trained goes to a library on the Hub, bit by bit.

    python hub_part.py products/metadata.jsonl user/library stable-diffusion-v1-5/stable-diffusion-v1-5 16 3

trains part 3 of 16; start it for 0 to 15, wherever you like. A part is trained in pieces, as many as the variable
PIECES says, or 8 (the same for all parts), and what is trained is pushed after each: pushes merge. Started again, it
fetches the library and goes on with what is not there yet. Further arguments are options of `supreme-init train`.

Only what was trained here is pushed. So it may replace what is on the Hub, when a picture has changed, and the
concepts of other parts, which are here as they were at the start, replace nothing. If a push fails, because many push
at once, the next one makes up for it.
"""

import contextlib
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

from huggingface_hub import snapshot_download
from huggingface_hub.errors import RepositoryNotFoundError

PIECES = int(os.environ.get("PIECES", "8"))
LIBRARY, TRAINED, PUSHED = Path("library"), Path("trained"), Path("pushed")


def main() -> int:
    """Train and push one piece after the other; return 1 if a concept or the last push failed."""
    concepts, repository, model, num_shards, shard_index, *more = sys.argv[1:]
    with contextlib.suppress(RepositoryNotFoundError):
        snapshot_download(repository, local_dir=LIBRARY)
    failed = pushed = 0
    for piece in range(PIECES):
        train = ["supreme-init", "train", "--concepts", concepts, "--output_dir", str(LIBRARY), "--model", model]
        number = PIECES * int(shard_index) + piece
        part = ["--num_shards", str(PIECES * int(num_shards)), "--shard_index", str(number)]
        ended = subprocess.run([*train, *part, *more], check=False).returncode
        if ended not in (0, 1):
            return ended  # wrong options, interrupted or killed: the next piece would end in the same way
        failed |= ended  # a piece in which concepts failed is pushed as well: what is there is whole
        for name in trained_here():
            shutil.copytree(LIBRARY / name, TRAINED / name, dirs_exist_ok=True)
        if TRAINED.exists():
            merge = ["supreme-init", "library", "merge", str(TRAINED), str(PUSHED), "--overwrite"]
            subprocess.run(merge, check=True)
            push = ["supreme-init", "push", str(PUSHED), repository, "--overwrite"]
            pushed = subprocess.run(push, check=False).returncode
    return failed or pushed


def trained_here() -> set[str]:
    """Return the folders that were saved on this machine: its ledgers say so, and ledgers are not published."""
    lines = [json.loads(line) for path in LIBRARY.glob("ledger-*") for line in path.read_text().splitlines()]
    return {line["folder"] for line in lines if line["state"] == "saved"}


if __name__ == "__main__":
    sys.exit(main())
