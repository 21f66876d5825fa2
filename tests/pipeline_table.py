"""Write ``docs/pipelines.md``: every pipeline class that takes a prompt, what the loader does on it, and how we know.

``python tests/pipeline_table.py`` writes the page, ``--check`` says whether it is stale.
"""

import argparse
import functools
import inspect
import sys
from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import diffusers
from diffusers.pipelines.pipeline_utils import DeprecatedPipelineMixin
from inventory.classes import (
    Reader,
    modular_classes,
    module_of,
    readers_of,
    readers_of_modular,
    short_name,
    text_taking_classes,
)
from inventory.modular_halves import NOT_RUN, modular_halves
from inventory.refusals import REASONS, refusal_of, refused_classes
from inventory.text_halves import lender_of, text_halves
from tiny.every_family import FAMILIES

PAGE = Path(__file__).parents[1] / "docs" / "pipelines.md"

WHOLE = "whole pipeline ran"
TEXT = "text encoding ran"
SAME = "same text encoders"
REFUSED = "refused"
UNKNOWN = "unknown"
CATEGORIES = {
    WHOLE: "the pipeline was built tiny, of the real classes, and called from prompt to picture, video or sound "
    "(`tests/test_every_pipeline.py`)",
    TEXT: "the pipeline class was given real tiny text encoders, nearly always without its denoiser, and its own code "
    "that encodes prompts was called (`tests/test_text_halves.py`); what comes after that "
    "does not see tokens",
    SAME: "not run; its text encoders and tokenizers are of the same classes as those of a pipeline that ran",
    REFUSED: "no text encoder to put rows into: the loader raises `ConceptLoadError` and changes nothing "
    "(`tests/test_pipeline_table.py` raises it)",
}

NOTES = {
    "cleans": "Cleans captions by default (`clean_caption=True`). Where `bs4` and `ftfy` are installed that removes "
    "`<mug>` as an HTML tag before any tokenizer sees it. The loader warns and names the two ways out: call the "
    'pipeline with `clean_caption=False`, or load the concept with `token="%mug%"`.',
    "prx": "Cleans prompts by rules of its own, where `ftfy` is installed. `<mug>` passes; `[mug]`, `{mug}`, `*mug*`, "
    "`@mug` and `mug7x` do not. The loader warns of those and names the two ways out: call the pipeline with "
    '`skip_text_cleaning=True`, or load the concept with `token="<mug>"`.',
    "rewrites": "By default a language model rewrites the prompt first, and what it writes need not hold the concept. "
    "The loader warns and names the argument that turns it off (LongCat-Image: `enable_prompt_rewrite=False`; "
    "ERNIE-Image, where it is loaded with `pe`: `use_pe=False`). Tests run without it.",
    "spells": "What is in quotation marks is read letter by letter: keep the concept outside them.",
    "glyphs": "The ByT5 encoder reads only what a prompt has in quotation marks. Rows in it matter to a prompt such "
    'as `a shop called "<mug>"`.',
    "planner": "GLM-Image's pictures are planned by a language model (`vision_language_encoder`), which reads all of "
    "the prompt through `processor`. Rows go into it as into a text encoder.",
    "two": "Two tokenizers make ids for one text encoder: its own and the one inside a processor. Both learn the "
    "concept.",
    "enhancer": "LTX-2's processor is for enhancing prompts, which is off by default; tests run without it.",
    "inside": "The tokenizer is inside a processor, which is called `tokenizer` or `processor` here.",
    "python": "A tokenizer written in Python (diffusers' own `ChatGLMTokenizer`).",
    "idle": "The pipeline never calls its `text_encoder`; prompts reach `prior_text_encoder` only.",
    "t5": "A second tokenizer (`t5_tokenizer`) makes ids for a network that is no text encoder; it reads `<mug>` as "
    "letters.",
    "deprecated": "Deprecated by diffusers.",
}
REWRITERS = ("enable_prompt_rewrite", "use_pe")
"""Arguments of ``__call__`` that, where they are on by default, let a language model rewrite the prompt."""

INTRO = """\
# Which pipelines take concepts

`pipe.load_multitoken_inversion` is a method of every diffusers pipeline. This page lists every pipeline class of
diffusers {version} that takes a prompt, what the method does on it, and how that was verified. It is generated:
`python tests/pipeline_table.py` writes it, and a test fails when it is stale.

{summary}

**{runs}**
A run means, for each text encoder: a concept of several rows is loaded; prompts without it give
bit-identical results before loading, after loading and after unloading; a prompt with it gives another result; the
ids of its rows, in order, reach the embedding matrix; and unloading leaves nothing behind. Weights are random and
vocabularies small: what is verified is the loader, not what a picture looks like.

## How to read the tables

* **family**: the module of `diffusers.pipelines`. The names of classes are without `Pipeline`.
* **text encoders ← tokenizers**: what `__init__` is annotated with; where that is no class of its own
  (`AutoTokenizer`, `PreTrainedModel`), what checkpoints hold. Tests compare it with what ran. `text_encoder` is named
  only where there are others. *A and B* are two tokenizers for one text encoder.
* **loader**: rows go into every text encoder that they were trained for; a text encoder that has none reads the
  concept's description instead. Numbers refer to the [notes](#notes).
* **verified how**: in brackets, the tiny pipeline in `tests/tiny/` that ran, or that lent its text encoders; `own`:
  they were made for this class.

The count is {count} classes: all that have a prompt among the arguments of `__call__` (`prompt`; `editing_prompt` of
LEDITS++; `task_prompt` of VisualCloze). Left out are the modules in `diffusers.pipelines.deprecated` and the ONNX
pipelines, which hold no PyTorch modules. {deprecated} of the {count} are deprecated and not in that folder yet.
"""


@dataclass(frozen=True)
class Entry:
    """What is known about one pipeline class.

    Attributes:
        pipeline_class: The class.
        readers: Its text encoders.
        category: One of `CATEGORIES`, or `UNKNOWN`.
        evidence: What ran, or why not, as the table shows it.
        action: What the loader does.
        notes: Keys of `NOTES`.
    """

    pipeline_class: type
    readers: tuple[Reader, ...]
    category: str
    evidence: str
    action: str
    notes: tuple[str, ...]


@functools.cache
def plain_entries() -> list[Entry]:
    """Return what is known about every text-taking pipeline class."""
    whole = {family.pipeline_class: f"{WHOLE} (`{family.name}`)" for family in FAMILIES}
    text = {half.pipeline_class: f"{TEXT} (`{half.lender or 'own'}`)" for half in text_halves()}
    return [_entry(one, readers_of(one), {WHOLE: whole, TEXT: text}) for one in text_taking_classes()]


@functools.cache
def modular_entries() -> list[Entry]:
    """Return what is known about every modular pipeline class."""
    text = {half.pipeline_class: f"{TEXT} (`{half.lender or 'own'}`)" for half in modular_halves()}
    return [_entry(one, readers_of_modular(one), {TEXT: text}) for one in modular_classes()]


def page() -> str:
    """Return the page."""
    plain, modular = plain_entries(), modular_entries()
    families = {module_of(family.pipeline_class) for family in FAMILIES}
    parts = INTRO.format(
        version=diffusers.__version__,
        count=len(plain),
        summary=_summary(plain, modular),
        runs=f"{len(FAMILIES)} pipeline classes of {len(families)} families ran whole.",
        deprecated=sum("deprecated" in entry.notes for entry in plain),
    )
    used = list(dict.fromkeys(note for entry in [*plain, *modular] for note in entry.notes))
    numbers = {note: number for number, note in enumerate((note for note in NOTES if note in used), 1)}
    sections = [parts, "## Pipelines\n", _table(plain, numbers)]
    sections += [
        "## Modular pipelines\n",
        "They have the method as well. Their text block was called, alone, with the text encoders in it.\n",
        _table(modular, numbers),
        "## Notes\n",
        "\n".join(f"{number}. {NOTES[note]}" for note, number in numbers.items()) + "\n",
    ]
    return "\n".join(sections)


def _entry(pipeline_class: type, readers: tuple[Reader, ...], ran: dict[str, dict[type, str]]) -> Entry:
    notes = tuple(_notes(pipeline_class, readers))
    rows = "rows in its text encoder" if len(readers) == 1 else "rows in each text encoder"
    if pipeline_class in refused_classes():
        reason = REASONS.get(pipeline_class.__name__)
        category = REFUSED if reason else UNKNOWN
        return Entry(
            pipeline_class, readers, category, f"{category}: {reason}", f"“{refusal_of(pipeline_class)}”", notes
        )
    for category, evidence in ran.items():
        if pipeline_class in evidence:
            return Entry(pipeline_class, readers, category, evidence[pipeline_class], rows, notes)
    family = lender_of(readers, module_of(pipeline_class))
    reason = NOT_RUN.get(pipeline_class.__name__)
    if family is None or reason is None:
        return Entry(pipeline_class, readers, UNKNOWN, UNKNOWN, UNKNOWN, notes)
    return Entry(pipeline_class, readers, SAME, f"{SAME} (`{family.name}`); not run: {reason}", rows, notes)


def _notes(pipeline_class: type, readers: tuple[Reader, ...]) -> Iterable[str]:
    kinds = [kind for reader in readers for _, kind in reader.tokenizers]
    defaults = {name: one.default for name, one in inspect.signature(pipeline_class.__call__).parameters.items()}
    name = short_name(pipeline_class)
    has_two = any(len(reader.tokenizers) > 1 for reader in readers)
    has_enhancer = any(kind.startswith("Gemma3Processor") for kind in kinds)
    found = {
        "cleans": defaults.get("clean_caption") is True,
        "prx": name == "PRX",
        "rewrites": any(defaults.get(rewriter) is True for rewriter in REWRITERS),
        "spells": name.startswith("LongCatImage"),
        "glyphs": "ByT5Tokenizer" in kinds,
        "planner": "vision_language_encoder" in inspect.signature(pipeline_class.__init__).parameters,
        "two": has_two and not has_enhancer,
        "enhancer": has_enhancer,
        "inside": not has_two and any("(" in kind for kind in kinds),
        "python": "ChatGLMTokenizer" in kinds,
        "idle": any(family.pipeline_class is pipeline_class and family.idle_encoders for family in FAMILIES),
        "t5": name == "Anima",
        "deprecated": issubclass(pipeline_class, DeprecatedPipelineMixin),
    }
    return (note for note, is_so in found.items() if is_so)


def _summary(plain: list[Entry], modular: list[Entry]) -> str:
    counts = [Counter(entry.category for entry in entries) for entries in (plain, modular)]
    lines = ["| verified how | pipelines | modular | what that means |", "|---|--:|--:|---|"]
    for category, meaning in CATEGORIES.items():
        lines.append(f"| {category} | {counts[0][category]} | {counts[1][category]} | {meaning} |")
    lines.append(f"| all | {len(plain)} | {len(modular)} | |")
    return "\n".join(lines)


def _table(entries: list[Entry], numbers: dict[str, int]) -> str:
    groups: dict[tuple, list[str]] = defaultdict(list)
    for entry in entries:
        marks = ", ".join(str(numbers[note]) for note in entry.notes)
        action = entry.action + (f" <sup>{marks}</sup>" if marks else "")
        is_plain = len(entry.readers) == 1 and entry.readers[0].encoder_name == "text_encoder"
        named = (str(one) if is_plain else f"`{one.encoder_name}`: {one}" for one in entry.readers)
        encoders = "<br>".join(named) or "none"
        key = (module_of(entry.pipeline_class), encoders, action, entry.evidence)
        groups[key].append(short_name(entry.pipeline_class))
    lines = ["| family | pipelines | text encoders ← tokenizers | loader | verified how |", "|---|---|---|---|---|"]
    for (module, encoders, action, evidence), names in groups.items():
        lines.append(f"| {module} | {', '.join(names)} | {encoders} | {action} | {evidence} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    """Write the page, or compare it with the committed one."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="exit with an error if the page is stale")
    is_check = parser.parse_args().check
    made = page()
    if not is_check:
        PAGE.write_text(made, encoding="utf-8")
    elif not PAGE.exists() or PAGE.read_text(encoding="utf-8") != made:
        sys.exit(f"docs/{PAGE.name} is stale; run `python tests/pipeline_table.py`")


if __name__ == "__main__":
    main()
