"""Latents <-> the tokens of transformers that read 2 x 2 squares of latents: Flux, Flux.2, Qwen-Image."""

import torch
from torch import Tensor
from torch.nn.functional import pixel_shuffle, pixel_unshuffle

PATCH_SIDE = 2
"""Latents along one side of a square."""


def pack(latents: Tensor) -> Tensor:
    """Pack ``(batch, channels, height, width)`` into ``(batch, tokens, 4 * channels)``, a token per square."""
    return pixel_unshuffle(latents, PATCH_SIDE).flatten(2).transpose(1, 2)


def unpack(tokens: Tensor, height: int, width: int) -> Tensor:
    """Undo `pack`; `height` and `width` are those of the latents."""
    size = (height // PATCH_SIDE, width // PATCH_SIDE)
    return pixel_shuffle(tokens.transpose(1, 2).unflatten(2, size), PATCH_SIDE)


def positions(rows: int, columns: int, num_axes: int) -> Tensor:
    """Return the position of each token, ``(rows * columns, num_axes)``: zero, row, column, and zeros."""
    grid = torch.zeros(rows, columns, num_axes)
    grid[..., 1] = torch.arange(rows)[:, None]
    grid[..., 2] = torch.arange(columns)[None]
    return grid.flatten(0, 1)
