"""`Description`: one answer of a describer."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Description:
    """One answer of a classifier or a captioner, as the model gave it.

    Attributes:
        text: A class label or a caption, not cleaned.
        score: The model's confidence: a probability in [0, 1] for a classifier, the mean log-probability of the
            caption's tokens for a captioner. Comparable only between answers of one model about one picture.
    """

    text: str
    score: float
