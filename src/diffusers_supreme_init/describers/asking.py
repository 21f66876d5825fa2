"""Selected pictures -> what captioner and classifier say of them, about one concept or several at once."""

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from PIL import Image

from ..errors import DescriberError
from .description import Description
from .masks import PixelBox
from .models import Describers
from .selection import SelectedPicture
from .wording import clean_label


@dataclass(frozen=True)
class Question:
    """What describers are asked about one concept.

    Attributes:
        method: ``"class"``, ``"caption"`` or ``"auto"``.
        pictures: Pictures of the concept.
    """

    method: str
    pictures: Sequence[SelectedPicture]


@dataclass(frozen=True)
class Answers:
    """What the describers said of one concept.

    Attributes:
        captions: Captions of each picture, best first; empty if the captioner was not asked.
        labels: Labels of all pictures together, best first; empty if the classifier was not asked.
    """

    captions: Sequence[Sequence[Description]] = ()
    labels: Sequence[Description] = ()


def ask(question: Question, describers: Describers) -> Answers:
    """Ask about one concept, one picture after the other: its words do not depend on how many there are."""
    num_captions, num_labels = _numbers(describers, is_automatic=question.method == "auto")
    captions, labels = [], []
    if question.method != "class" and num_captions:
        for picture in question.pictures:
            image, box = _shown(picture, describers)
            longest = describers.config.max_caption_tokens
            captions.append(
                describers.captioner.describe(image, num_captions=num_captions, max_new_tokens=longest, box=box)
            )
    if question.method != "caption" and num_labels:
        crops = [picture.crop for picture in question.pictures]
        labels = describers.classifier.describe(crops, num_labels=num_labels, name_of=_naming(describers))
    return Answers(captions, labels)


def ask_together(questions: Sequence[Question], describers: Describers) -> list[Answers]:
    """Ask captioner and classifier about several concepts, whose pictures go through the models together.

    That is faster on a GPU; scores differ by rounding from those of a concept alone, and so may close answers.

    Raises:
        DescriberError: A model cannot be loaded, or fails on a picture.
    """
    captions: list[Sequence[Sequence[Description]]] = [()] * len(questions)
    labels: list[Sequence[Description]] = [()] * len(questions)
    for is_automatic in (False, True):
        of_kind = [index for index, one in enumerate(questions) if (one.method == "auto") is is_automatic]
        num_captions, num_labels = _numbers(describers, is_automatic=is_automatic)
        asked = [index for index in of_kind if questions[index].method != "class"]
        if asked and num_captions:
            shown = [_shown(picture, describers) for index in asked for picture in questions[index].pictures]
            said = iter(
                describers.captioner.describe_each(
                    [image for image, _ in shown],
                    num_captions=num_captions,
                    max_new_tokens=describers.config.max_caption_tokens,
                    boxes=[box for _, box in shown],
                )
            )
            for index in asked:
                captions[index] = [next(said) for _ in questions[index].pictures]
        asked = [index for index in of_kind if questions[index].method != "caption"]
        if asked and num_labels:
            crops = [[picture.crop for picture in questions[index].pictures] for index in asked]
            each = describers.classifier.describe_each(crops, num_labels=num_labels, name_of=_naming(describers))
            for index, found in zip(asked, each, strict=True):
                labels[index] = found
    return [Answers(*each) for each in zip(captions, labels, strict=True)]


def _numbers(describers: Describers, *, is_automatic: bool) -> tuple[int, int]:
    """Return how many captions of each picture and how many labels are asked for."""
    return (describers.config.num_captions, describers.config.num_labels) if is_automatic else (1, 1)


def _shown(picture: SelectedPicture, describers: Describers) -> tuple[Image.Image, PixelBox | None]:
    """Return what the captioner sees: a captioner that takes boxes gets the whole picture, surroundings included."""
    whole = describers.captioner.describes_boxes and describers.config.region_background == "keep"
    return (picture.image, picture.box) if whole and picture.box else (picture.crop, None)


def _naming(describers: Describers) -> Callable[[str], str]:
    """Return what labels of the same words have in common, see `LabelModel.describe`."""
    config = describers.config
    return str.strip if config.candidate_labels else functools.partial(_name_of, synonym=config.label_synonym)


@functools.lru_cache(maxsize=1 << 15)
def _name_of(label: str, synonym: str) -> str:
    """Return what labels of the same words have in common; a label that names nothing has only itself."""
    try:
        return clean_label(label, synonym=synonym).text.casefold()
    except DescriberError:
        return label
