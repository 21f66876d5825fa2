"""``docs/real_words.md``: the words of a real classifier for the 30 subjects of DreamBooth.

    python tests/real_words.py

It needs ``make real-parts`` and DreamBooth's photographs; a slow test fails when the page is stale.
"""

import functools
import json
import tempfile
from collections import defaultdict
from pathlib import Path

from conftest import ROOT
from PIL import Image
from real_parts import DREAMBOOTH, save_real_classifier

from diffusers_supreme_init.describers.asking import _name_of
from diffusers_supreme_init.describers.classifier import Classifier
from diffusers_supreme_init.describers.wording import clean_label

PAGE = ROOT / "docs" / "real_words.md"

# Judged by DreamBooth's class, and from a photograph where that left a doubt; all others name their subject.
WRONG = {"can", "candle", "duck_toy", "fancy_boot", "monster_toy", "poop_emoji", "red_cartoon", "robot_toy"}
ARGUABLE = {"berry_bowl", "rc_car"}

HEAD = """# The words of a real classifier

`initializer="class"` on the 30 subjects of DreamBooth ([Ruiz et al. 2023](https://arxiv.org/abs/2208.12242), 158
photographs, all of a subject averaged), with a small ImageNet classifier, EfficientNet-Lite0. `python
tests/real_words.py` makes this page. Whether a word is right was judged
by DreamBooth's class, and by eye where that left a doubt (16 subjects); another breed of dog counts as right.

{counts} ImageNet has no class for a duck toy, a cartoon or a robot, and the
classifier does not say so: a low probability is the only hint. Wrong words are what `"auto"` is for, which also asks a
captioner and compares the words on the model itself.

| subject | DreamBooth's class | word | probability | second word | right? |
|:---|:---|:---|---:|:---|:---|
"""


def words() -> list[tuple[str, str, list[tuple[str, float]]]]:
    """Return ``(subject, class, [(word, probability), ...])`` for each subject."""
    files: dict[tuple[str, str], list[Path]] = defaultdict(list)
    for line in (DREAMBOOTH / "metadata.jsonl").read_text(encoding="utf-8").split("\n"):
        if line:
            row = json.loads(line)
            files[row["subject"], row["class"]].append(DREAMBOOTH / row["file_name"])
    with tempfile.TemporaryDirectory() as folder:
        classifier = Classifier(str(save_real_classifier(Path(folder))), device="cpu")
    name_of = functools.partial(_name_of, synonym="first")
    found = []
    for (subject, name), paths in files.items():
        answers = classifier.describe(
            [Image.open(path).convert("RGB") for path in paths], num_labels=2, name_of=name_of
        )
        found.append((subject, name, [(clean_label(one.text).text, one.score) for one in answers]))
    return found


def page() -> str:
    """Return the contents of the page."""
    found = words()
    lines = []
    for subject, name, [(word, score), (second, _)] in found:
        verdict = "**no**" if subject in WRONG else "arguable" if subject in ARGUABLE else "yes"
        lines.append(f"| {subject} | {name} | {word} | {score:.2f} | {second} | {verdict} |")
    num_right = len(found) - len(WRONG) - len(ARGUABLE)
    counts = f"{num_right} of {len(found)} words are right, {len(ARGUABLE)} arguable, {len(WRONG)} wrong."
    return HEAD.format(counts=counts) + "\n".join(lines) + "\n"


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
