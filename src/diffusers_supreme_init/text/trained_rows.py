"""Rows that train outside the matrix of their embedding, which stays as it is."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle


class TrainedRows:
    """Puts rows into what an embedding looks up, as a forward hook; gradients reach the rows alone.

    PEFT's `TrainableTokensConfig` gives the same bits, on a copy of the whole matrix at every look-up.
    """

    def __init__(self, embedding: nn.Embedding, token_ids: Sequence[int], rows: nn.Parameter) -> None:
        """Prepare the look-up; `attach` begins it.

        Args:
            embedding: Embedding of a text encoder.
            token_ids: Token ids of the rows.
            rows: ``(number of token ids, hidden_size)``, on the embedding's device, of any floating-point dtype.
        """
        device = embedding.weight.device
        self._rows = rows
        self._row_of_token = torch.full((len(embedding.weight),), -1, device=device)
        self._row_of_token[list(token_ids)] = torch.arange(len(token_ids), device=device)
        self._embedding = embedding

    def attach(self) -> RemovableHandle:
        """Look the rows up from now on; remove the handle to stop."""
        return self._embedding.register_forward_hook(self)

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
