"""Rows that train outside the matrix of their embedding, which stays as it is."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from .text_pairs import TextPair


class TrainedRows:
    """Puts rows into what a text encoder looks up, as a forward hook; gradients reach the rows alone.

    PEFT's `TrainableTokensConfig` gives the same, on a copy of the whole matrix at every look-up.
    """

    def __init__(self, pair: TextPair, token_ids: Sequence[int], rows: nn.Parameter) -> None:
        """Look the rows up from now on; `detach` ends it.

        Args:
            pair: Text encoder whose embedding has rows for `token_ids`.
            token_ids: Token ids of the rows.
            rows: ``(number of token ids, hidden_size)``, on the embedding's device, of any floating-point dtype.
        """
        weight = pair.embedding.weight
        self._rows = rows
        self._row_of_token = torch.full((len(weight),), -1, device=weight.device)
        self._row_of_token[list(token_ids)] = torch.arange(len(token_ids), device=weight.device)
        # T5 names one embedding and looks up in another of the same weight.
        tied = [part for part in pair.encoder.modules() if isinstance(part, nn.Embedding) and part.weight is weight]
        self._hooks = [embedding.register_forward_hook(self) for embedding in tied]

    def detach(self) -> None:
        """Let the text encoder look up the rows of its own matrix again."""
        for hook in self._hooks:
            hook.remove()

    def __call__(self, embedding: nn.Embedding, arguments: tuple[Tensor, ...], found: Tensor) -> Tensor:
        """Return what the embedding found, with the rows in their places."""
        places = self._row_of_token[arguments[0]]
        rows = nn.functional.embedding(places.clamp(min=0), self._rows.to(embedding.weight.dtype))
        scale = getattr(embedding, "embed_scale", None)  # Gemma's embedding scales what it looks up
        if scale is not None:
            rows = rows * scale.to(rows.dtype)
        return torch.where((places >= 0)[..., None], rows, found)


def is_trained(embedding: nn.Module) -> bool:
    """Whether rows of an embedding are being trained at present."""
    return any(isinstance(hook, TrainedRows) for hook in embedding._forward_hooks.values())
