"""When the rows of one text encoder mean the same in another.

Files name the text encoder that their rows were made for, so reading one needs this module, and no model class.
"""

import re
from dataclasses import dataclass


@dataclass(frozen=True)
class EncoderIdentity:
    """The properties that must be equal for the rows of one text encoder to mean the same in another.

    Attributes:
        class_name: Class of the text encoder, e.g. ``"CLIPTextModel"``.
        hidden_size: Width of a row.
        vocabulary: SHA-256 over the tokenizer's own vocabulary, without added tokens.
    """

    class_name: str
    hidden_size: int
    vocabulary: str

    def serves(self, other: "EncoderIdentity") -> bool:
        """Whether rows that were made for this encoder mean the same in another.

        Classes that differ only in the head on top of the transformer count as equal, because a head does not affect
        the input rows. Stable Diffusion 1 has OpenAI's CLIP-L as ``CLIPTextModel``, Stable Diffusion 3 as
        ``CLIPTextModelWithProjection``.
        """
        return (_architecture(self.class_name), self.hidden_size, self.vocabulary) == (
            _architecture(other.class_name),
            other.hidden_size,
            other.vocabulary,
        )


def _architecture(class_name: str) -> str:
    """Return a class name without its suffix for the head: ``CLIP``, ``T5``, ``Qwen3``, ``Qwen2_5_VL``."""
    return re.sub(r"(For[A-Z]\w*|(Text)?(Encoder)?(Model)?(WithProjection)?)\Z", "", class_name)
