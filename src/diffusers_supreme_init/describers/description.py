"""What every describer answers with."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Description:
    """One answer of a classifier or a captioner, as the model gave it.

    Attributes:
        text: A class label or a caption, not cleaned.
        score: How sure the model is: of a classifier a probability in [0, 1], of a captioner the mean log-probability
            of the caption's tokens. Comparable only between answers of one model about one picture.
    """

    text: str
    score: float
