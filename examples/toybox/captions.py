"""Training captions: a toy told in more or less detail, inside the sentences that textual inversion uses."""

import random

from world import Toy, describe, with_article

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
MEANINGLESS_WORD = "*"
EMPTY_SHARE = 0.1
MEANINGLESS_SHARE = 0.04


def training_caption(toy: Toy, rng: random.Random) -> str:
    """Draw a caption for a toy.

    One in ten is empty, so that the model can be guided. A few hold "*", in place of the toy or anywhere, over
    any picture: the word becomes known to the text encoder without coming to mean anything, which is what textual
    inversion expects of its classic starting point.
    """
    if rng.random() < EMPTY_SHARE:
        return ""
    template = "{}" if rng.random() < 0.3 else rng.choice(TEMPLATES)
    if rng.random() < MEANINGLESS_SHARE:
        return template.format(MEANINGLESS_WORD, bare=MEANINGLESS_WORD)
    words = describe(
        toy,
        color=rng.random() < 0.85,
        pattern=rng.random() < 0.7,
        trim=rng.random() < 0.4,
        background=rng.random() < 0.4,
    )
    sentence = template.format(with_article(words, toy), bare=words)
    if rng.random() < MEANINGLESS_SHARE:
        pieces = sentence.split()
        pieces.insert(rng.randrange(len(pieces) + 1), MEANINGLESS_WORD)
        sentence = " ".join(pieces)
    return sentence
