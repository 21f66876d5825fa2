# /// script
# requires-python = ">=3.11"
# dependencies = ["diffusers-supreme-init"]
# ///
"""One part of a list on Hugging Face Jobs: pictures from a dataset repository, concepts into a library on the Hub.

hf jobs uv run --flavor a10g-small --secrets HF_TOKEN hf_jobs.py user/products user/library 16 3

trains part 3 of 16; start it for 0 to 15. Each job pushes what it has trained: pushes merge.
"""

import subprocess
import sys

from huggingface_hub import snapshot_download

MODEL = "stable-diffusion-v1-5/stable-diffusion-v1-5"


def main() -> None:
    """Fetch the list, train a part of it, push the part."""
    dataset, repository, num_shards, shard_index = sys.argv[1:5]
    pictures = snapshot_download(dataset, repo_type="dataset")
    train = ["supreme-init", "train", "--concepts", f"{pictures}/metadata.jsonl", "--output_dir", "library"]
    part = ["--num_shards", num_shards, "--shard_index", shard_index, "--model", MODEL]
    # A part with failures is pushed as well: what is there is whole.
    ended = subprocess.run([*train, *part, *sys.argv[5:]], check=False)
    subprocess.run(["supreme-init", "push", "library", repository], check=True)
    sys.exit(ended.returncode)


if __name__ == "__main__":
    main()
