"""Words for toys: short captions, as captioners say them, and rich ones, as alt texts are, in training templates."""

import random
from collections.abc import Collection
from dataclasses import dataclass

from world import Toy, shown_details

# "{}" takes words with their article, "{bare}" takes them without one.
TEMPLATES = (
    "{}",
    "a photo of {}",
    "a picture of {}",
    "a drawing of {}",
    "a rendering of {}",
    "a rendition of {}",
    "a depiction of {}",
    "an image of {}",
    "a cropped photo of {}",
    "a close-up photo of {}",
    "a bright photo of {}",
    "a dark photo of {}",
    "a good photo of {}",
    "the photo of {}",
    "a bright photo of the {bare}",
    "a photo of the {bare}",
    "a cropped photo of the {bare}",
    "a dark photo of the {bare}",
    "a close-up photo of the {bare}",
    "a rendition of the {bare}",
    "a photo of my {bare}",
    "a photo of one {bare}",
    "a close-up photo of one {bare}",
    "a rendering of the {bare}",
    "a photo of a clean {bare}",
    "a photo of the clean {bare}",
    "a photo of a dirty {bare}",
    "a photo of the dirty {bare}",
    "a photo of a nice {bare}",
    "a photo of the nice {bare}",
    "a good photo of the {bare}",
    "a photo of a cool {bare}",
    "a photo of the cool {bare}",
    "a photo of a small {bare}",
    "a photo of the small {bare}",
    "a photo of a weird {bare}",
    "a photo of the weird {bare}",
    "a photo of a large {bare}",
    "a photo of the large {bare}",
)
PATTERN_WORDS = {"striped": "stripes", "spotted": "spots", "checked": "checks"}
PLURAL_CATEGORIES = frozenset({"sunglasses"})
CAPTIONER_DETAILS = ("category", "color", "pattern", "pattern_color")
"""What a captioner tells of a toy; now and then it adds the background, and leaves out the pattern."""

SYNONYMS = {
    "mug": "cup",
    "clock": "alarm",
    "backpack": "rucksack",
    "car": "auto",
    "bear": "teddy",
    "sneaker": "shoe",
    "lamp": "light",
    "umbrella": "parasol",
    "stripes": "bands",
    "spots": "dots",
    "checks": "squares",
    "trim": "accents",
    "pale": "faint",
    "deep": "rich",
    "dusty": "muted",
    "background": "backdrop",
}
SYNONYM_SHARE = 0.15

MEANINGLESS_WORD = "*"
EMPTY_SHARE = 0.1
MEANINGLESS_SHARE = 0.04
# How often a rich caption tells a detail that is there.
TOLD_SHARES = {"color": 0.9, "pattern": 0.75, "background": 0.5}
OTHER_TOLD_SHARE = 0.6


def describe(toy: Toy, told: Collection[str], rng: random.Random | None = None) -> str:
    """The words for a toy without an article: "red mug with white stripes and blue trim on a sky background".

    Args:
        toy: What is told of.
        told: Names of `world.DETAILS`; those that the picture does not show are left out. A pattern and an emblem
            come with their colors when those are named too.
        rng: Puts the details in another order and takes synonyms now and then; `None`: neither.
    """
    looks = told_details(toy, told)
    words = [looks.get("shade"), looks.get("color"), looks["category"]]
    phrases = _phrases(looks)
    if rng is not None:
        rng.shuffle(phrases)
    sentence = " ".join(word for word in words if word)
    if phrases:
        sentence += f" with {_enumerate(phrases)}"
    if "background" in looks:
        sentence += f" on a {looks['background']} background"
    return sentence if rng is None else _vary(sentence, rng)


def told_details(toy: Toy, told: Collection[str]) -> dict[str, str]:
    """The details among `told` that the toy shows; its category is always told."""
    return {name: value for name, value in shown_details(toy).items() if name in told or name == "category"}


def caption(toy: Toy, told: Collection[str] = CAPTIONER_DETAILS) -> str:
    """The sentence for a toy: "an orange umbrella", "a red mug with white stripes"."""
    return with_article(describe(toy, told))


def with_article(words: str) -> str:
    """Put "a" or "an" before the words; plural categories take no article."""
    if PLURAL_CATEGORIES.intersection(words.split(" with ")[0].split()):
        return words
    return f"{'an' if words[0] in 'aeiou' else 'a'} {words}"


@dataclass(frozen=True)
class TrainingCaption:
    """A caption and what it tells of its toy, by the names of `world.DETAILS`."""

    text: str
    told: dict[str, str]


def training_caption(toy: Toy, rng: random.Random) -> TrainingCaption:
    """Draw a caption for a toy.

    One in ten is empty, so that the model can be guided. A few hold "*", in place of the toy or anywhere, over
    any picture: the word becomes known to the text encoder without coming to mean anything, which is what textual
    inversion expects of its classic starting point.
    """
    if rng.random() < EMPTY_SHARE:
        return TrainingCaption("", {})
    template = "{}" if rng.random() < 0.3 else rng.choice(TEMPLATES)
    if rng.random() < MEANINGLESS_SHARE:
        return TrainingCaption(template.format(MEANINGLESS_WORD, bare=MEANINGLESS_WORD), {})
    names = _draw_told(rng)
    words = describe(toy, names, rng)
    sentence = template.format(with_article(words), bare=words)
    if rng.random() < MEANINGLESS_SHARE:
        pieces = sentence.split()
        pieces.insert(rng.randrange(len(pieces) + 1), MEANINGLESS_WORD)
        sentence = " ".join(pieces)
    return TrainingCaption(sentence, told_details(toy, names))


def _draw_told(rng: random.Random) -> set[str]:
    """Any subset of the details; the color of a pattern or an emblem is only told with its shape."""
    shares = {name: TOLD_SHARES.get(name, OTHER_TOLD_SHARE) for name in ("color", "shade", "pattern", "trim")}
    shares |= {name: TOLD_SHARES.get(name, OTHER_TOLD_SHARE) for name in ("emblem", "accessory", "background")}
    told = {name for name, share in shares.items() if rng.random() < share}
    for shape in ("pattern", "emblem"):
        if shape in told and rng.random() < 0.9:
            told.add(f"{shape}_color")
    return told


def _phrases(looks: dict[str, str]) -> list[str]:
    phrases = []
    if "pattern" in looks:
        phrases.append(_join(looks.get("pattern_color"), PATTERN_WORDS[looks["pattern"]]))
    if "trim" in looks:
        phrases.append(f"{looks['trim']} trim")
    if "emblem" in looks:
        phrases.append(with_article(_join(looks.get("emblem_color"), looks["emblem"])))
    if "accessory" in looks:
        phrases.append(f"a {looks['accessory']}")
    return phrases


def _join(*words: str | None) -> str:
    return " ".join(word for word in words if word)


def _enumerate(phrases: list[str]) -> str:
    return " and ".join(filter(None, [", ".join(phrases[:-1]), phrases[-1]]))


def _vary(sentence: str, rng: random.Random) -> str:
    """Take the synonym of a word now and then."""
    words = sentence.split()
    return " ".join(SYNONYMS.get(word, word) if rng.random() < SYNONYM_SHARE else word for word in words)
