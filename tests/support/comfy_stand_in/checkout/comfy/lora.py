"""Weights with patches on them."""

from __future__ import annotations

import logging
from typing import Any

import torch

import comfy.weight_adapter


def calculate_weight(patches: list[Any], weight: torch.Tensor, key: str) -> torch.Tensor:
    """Return a weight with these patches on it; those that do not fit are skipped, with a line in the log."""
    for strength, value, strength_model, offset, function in patches:
        whole, part = weight, weight if offset is None else weight.narrow(*offset)
        if strength_model != 1.0:
            part *= strength_model
        part = _patched(part, key, strength, value, function)
        weight = part if offset is None else whole
    return weight


def _patched(weight: torch.Tensor, key: str, strength: float, value: Any, function: Any) -> torch.Tensor:
    change = function or (lambda a: a)
    if isinstance(value, comfy.weight_adapter.WeightAdapterBase):
        try:
            weight += change(strength * value.difference(weight))
        except (RuntimeError, ValueError) as error:
            logging.error("ERROR %s %s", key, error)
        return weight
    kind, content = ("diff", value) if len(value) == 1 else value
    if kind == "set":
        return weight.copy_(content[0])
    difference = content[0]
    if len(content) > 1 and content[1]["pad_weight"] and difference.shape != weight.shape:
        padded = torch.zeros(difference.shape, dtype=weight.dtype, device=weight.device)
        padded[tuple(map(slice, weight.shape))] = weight
        weight = padded
    if strength != 0.0:
        if difference.shape != weight.shape:
            logging.warning("WARNING SHAPE MISMATCH %s", key)
        else:
            weight += change(strength * difference)
    return weight
