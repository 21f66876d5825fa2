"""Answers of models -> words to start from: class labels become names, captions lose their boilerplate."""

import re
import unicodedata
from dataclasses import dataclass, replace

from ..errors import DescriberError
from .answers import plain_answer


@dataclass(frozen=True)
class Wording:
    """Cleaned words and the answer they come from.

    Attributes:
        text: The words, in the case they had, without leading or trailing punctuation; ``""`` if nothing is left.
        raw: The model's answer.
        removed: Boilerplate that was removed, in the order in which it was found.
    """

    text: str
    raw: str
    removed: tuple[str, ...] = ()


_WORDNET_ID = re.compile(r"^n\d{8}[\s:_-]+")
_PLACEHOLDER_LABEL = re.compile(r"label[_ ]?\d+|n?\d+", re.IGNORECASE)
_SEPARATOR = re.compile(r"\s*[,;]\s*|\s+[/|]\s+")
_OR = re.compile(r"\s+or\s+", re.IGNORECASE)
_ASIDE = re.compile(r"\s*\(([^()]*)\)")
_FIRST_WORD = re.compile(
    r"\A(?:an?|the|my|your|his|her|its|our|their|one|two|three|some|this|that|these|those|there|it|in|on|at|with)(?=\s)",
    re.IGNORECASE,
)
"""Words that have a capital only because a sentence begins with them."""
_QUOTES = " \t\"'`*_#>“”‘’«»"
_THOUGHTS = re.compile(r"<think>.*?</think>|^.*?</think>|<think>.*$", re.DOTALL)
_MEDIUM = (
    r"(?:image|picture|photo(?:graph)?|view|close[- ]?up|drawing|illustration|painting|rendering|shot(?= of an? ))"
)
_LEADS = (
    re.compile(rf"^(?:the|this|an?) {_MEDIUM} (?:shows|depicts|features|contains|displays|is of)\s+", re.IGNORECASE),
    re.compile(r"^(?:there (?:is|are)|(?:this|it) is(?= an? | the ))\s+", re.IGNORECASE),
    re.compile(
        rf"^(?:an? |the )?(?:(?:close[- ]?up|cropped|blurry|zoomed in|zoomed-in) )*{_MEDIUM} of(?:\s+|$)",
        re.IGNORECASE,
    ),
    re.compile(r"^(?:arafed|araffe(?:d|s)?|araff)\b\s*", re.IGNORECASE),
)
_TAIL = re.compile(
    r",?\s+(?:(?:is |that is )?(?:shown |isolated |sitting |placed )?)"
    r"(?:on|against|over|with) (?:an? |the )?(?:plain |pure |solid |blank )*"
    r"(?:white|black|gr[ae]y|transparent) (?:background|backdrop)$",
    re.IGNORECASE,
)
_PLACES = (
    r"backgrounds?|backdrop|table|desk|floor|ground|wall|shelf|counter|couch|sofa|bed|chair|bench|blanket|carpet|rug|"
    r"grass|field|lawn|garden|yard|park|forest|woods|beach|sand|snow|water|sea|ocean|lake|river|sky|street|road|"
    r"sidewalk|city|kitchen|room|window|sill|ledge|mountains?|rocks?|trees?|plate|surface|stage|studio"
)
# An object may have a window or a mountain on it: "with" only tells of backgrounds.
_SOMEWHERE = (
    r"\b(?:(?:on|in|at|against|over|under|near|by|beside|behind|in front of|on top of|next to|surrounded by)"
    rf" (?:[\w-]+ ){{0,3}}?(?:{_PLACES})(?: (?:{_PLACES}))*"
    r"|with (?:(?!with )[\w-]+ ){0,4}?(?:background|backdrop)s?)\b"
)
_SURROUNDINGS = re.compile(_SOMEWHERE, re.IGNORECASE)
_PLACED = re.compile(
    r",?\s*(?:\b(?:(?:that )?(?:is|are) )?(?:shown|isolated|displayed|placed|parked|sitting|seated|standing|laying|"
    rf"lying|resting|hanging) (?:down |up )?)?{_SOMEWHERE}",
    re.IGNORECASE,
)
_LEFT_OVER = re.compile(r"(?:\s+(?:and|with|that|is|are))+$", re.IGNORECASE)


def clean_label(label: str, *, synonym: str = "first") -> Wording:
    """Turn a class label into a name.

    ImageNet labels are WordNet synsets, comma-separated lists of names; the paper does not say which name to use.
    Others join names by "or" or a slash, and explain them in brackets. The case stays, since T5 reads it.

    >>> clean_label("n02123045 tabby, tabby cat").text
    'tabby'
    >>> clean_label("gas mask or respirator").text, clean_label("vaulted or arched ceiling").text
    ('gas mask', 'arched ceiling')

    Args:
        label: As written in the model's configuration.
        synonym: ``"first"`` (the usual name; birds and fish append the Latin one), ``"last"`` or ``"all"``.

    Raises:
        DescriberError: The label is a number such as ``"LABEL_3"``: the model does not name its classes.
    """
    without_id = _WORDNET_ID.sub("", label.strip()).replace("_", " ")
    asides = [aside.strip() for aside in _ASIDE.findall(without_id) if aside.strip()]
    names: list[str] = []
    complete: list[str] = []
    for part in _SEPARATOR.split(_ASIDE.sub("", without_id).strip()):
        alternatives = [one for one in _OR.split(part.strip()) if one]
        names += alternatives
        # Of "vaulted or arched ceiling" only the last is a name.
        complete += [one for one in alternatives if len(one.split()) >= len(alternatives[-1].split())]
    if not names or _PLACEHOLDER_LABEL.fullmatch(label.strip()):
        raise DescriberError(
            f"classifier: expected class names, got {label!r}; use a model whose configuration has id2label, or pass "
            "candidate_labels"
        )
    chosen = {"first": complete[0], "last": complete[-1], "all": " ".join(names)}[synonym]
    dropped = asides if synonym == "all" else [*(name for name in names if name != chosen), *asides]
    return Wording(chosen, label, tuple(dropped))


def clean_caption(caption: str, *, boilerplate: bool = True) -> Wording:
    """Remove from a caption the parts that do not describe the object.

    Always removed: thoughts of reasoning models, all lines but the first, markup, quotes, final punctuation. With
    `boilerplate`, also: openings such as "there is" and "a close up of", BLIP-large's made-up word "arafed", and plain
    backgrounds at the end, which captioners mention for objects that were cut out. Words keep their case, since T5
    reads it, except for an article or the like that begins the sentence.

    >>> clean_caption('"There is a red mug on a white background."').text
    'a red mug'
    """
    text, omitted = plain_answer(_THOUGHTS.sub(" ", caption))
    text = next((line for line in text.splitlines() if line.strip(_QUOTES)), "")
    text = _trim(" ".join(text.split()))
    removed = [*omitted]
    while boilerplate:
        pattern = next((pattern for pattern in (*_LEADS, _TAIL) if pattern.search(text)), None)
        if pattern is None:
            break
        removed += [match.strip(" ,").lower() for match in pattern.findall(text)]
        text = _trim(pattern.sub("", text))
    return Wording(_FIRST_WORD.sub(lambda word: word[0].lower(), text), caption, tuple(removed))


def tells_surroundings(text: str) -> bool:
    """Whether a caption also says where its object is.

    >>> tells_surroundings("a red mug on a wooden table"), tells_surroundings("a woman in a red dress")
    (True, False)
    """
    return _SURROUNDINGS.search(text) is not None


def without_surroundings(wording: Wording) -> Wording:
    """Remove from words what they say about the place of their object; the text is ``""`` if nothing else is left.

    >>> without_surroundings(Wording("a cat sitting in the grass", ""))
    Wording(text='a cat', raw='', removed=('sitting in the grass',))
    """
    places = [match[0].strip(" ,") for match in _PLACED.finditer(wording.text)]
    text = _LEFT_OVER.sub("", " ".join(_PLACED.sub("", wording.text).split()))
    return replace(wording, text=_trim(text), removed=(*wording.removed, *places))


def is_latin(text: str) -> bool:
    """Whether at least half of the letters are Latin; text encoders of diffusion models have learned little else."""
    letters = [character for character in text if character.isalpha()]
    latin = sum(unicodedata.name(letter, "").startswith("LATIN") for letter in letters)
    return 2 * latin >= len(letters)


def _trim(text: str) -> str:
    return text.strip(_QUOTES + ".,;:!?-")
