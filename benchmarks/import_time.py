"""What importing the package and asking for help cost beside importing diffusers, in processor seconds.

    python benchmarks/import_time.py

Each line runs in fresh processes, in turn with the others, after one run that warms the disk; the medians are printed.
"""

import argparse
import os
import statistics
import subprocess
import sys

IMPORTS = (
    "import diffusers",
    "import diffusers_supreme_init",
    "import diffusers, diffusers_supreme_init",
    "from diffusers import DiffusionPipeline",
    "from diffusers import DiffusionPipeline; import diffusers_supreme_init",
    "from diffusers_supreme_init import SupremeInitTextualInversionTrainer",
    "from diffusers_supreme_init.commands import main; main(['--help'])",
    "from diffusers_supreme_init.commands import main; main(['train', '--help'])",
    "from diffusers_supreme_init.commands import main; main(['train', '--bogus'])",
)


def seconds_of(code: str) -> float:
    """Return the processor seconds of a new process that runs `code`."""
    before = os.times()
    subprocess.run([sys.executable, "-c", code], check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    after = os.times()
    return after.children_user + after.children_system - before.children_user - before.children_system


def main() -> None:
    """Measure, and print the seconds of each line and their ratio to the first."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5, help="how often each is imported")
    arguments = parser.parse_args()
    rounds = [[seconds_of(code) for code in IMPORTS] for _ in range(1 + arguments.rounds)][1:]
    medians = [statistics.median(seconds) for seconds in zip(*rounds, strict=True)]
    print("| | processor seconds | times `import diffusers` |\n|:---|---:|---:|")
    for code, median in zip(IMPORTS, medians, strict=True):
        print(f"| `{code}` | {median:.2f} | {median / medians[0]:.2f} |")


if __name__ == "__main__":
    main()
