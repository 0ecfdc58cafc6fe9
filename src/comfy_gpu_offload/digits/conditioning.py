"""The conditioning of the digits model: a label as one-hot codes, without a text encoder or randomness.

All values are 0 or 1, so that every float dtype holds them exactly.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import torch
from torch import Tensor

CLASSES: Final = 10
TOKENS: Final = 4
CONTEXT_WIDTH: Final = 48
POOLED_WIDTH: Final = 64

_DROPPED: Final = CLASSES
_POSITION: Final = CLASSES + 1


def conditioning(labels: Sequence[int]) -> tuple[Tensor, Tensor]:
    """Encode one label for each sample.

    Returns:
        context `[B, 4, 48]` and pooled `[B, 64]`, float32: the label is a one-hot at 0..9, and each context
        token carries its position as a second one-hot.

    Raises:
        ValueError: a label is not in 0..9.
    """
    wrong = [label for label in labels if not 0 <= label < CLASSES]
    if wrong:
        raise ValueError(f"labels must be digits 0..9, not {wrong[0]}")
    return _codes(list(labels))


def unconditional(batch: int) -> tuple[Tensor, Tensor]:
    """Encode the dropped label `batch` times: context `[B, 4, 48]` and pooled `[B, 64]`, float32."""
    return _codes([_DROPPED] * batch)


def _codes(indices: list[int]) -> tuple[Tensor, Tensor]:
    rows = torch.arange(len(indices))
    columns = torch.tensor(indices, dtype=torch.long)
    tokens = torch.arange(TOKENS)
    context = torch.zeros(len(indices), TOKENS, CONTEXT_WIDTH)
    context[rows, :, columns] = 1
    context[:, tokens, _POSITION + tokens] = 1
    pooled = torch.zeros(len(indices), POOLED_WIDTH)
    pooled[rows, columns] = 1
    return context, pooled
