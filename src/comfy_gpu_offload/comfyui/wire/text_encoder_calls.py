"""Calls of a text encoder on the wire: the names of its methods, and the options that each call carries.

A text encoder is a composite of one or several parts (`SDClipModel`: CLIP-L, T5, a language model), or one part
alone. ComfyUI sets options on the parts before it calls the composite; so each call has them, by the part's name.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from hashlib import sha256
from typing import Any

import torch
from torch import nn

from ...backends.base import ModelRunError

# The prefixes of the names of text encoders: of files of their own, and of checkpoints that have one in them.
PREFIX, CHECKPOINT_PREFIX = "text_encoder:", "checkpoint_clip:"
# Options of a text encoder: the name of a `comfy.sd.CLIPType`, and ``cpu`` for ComfyUI's choice of that device.
TYPE, DEVICE, CPU = "type", "device", "cpu"
# Methods: of the composite and of its parts; and one that returns a tensor of the file by its digest.
ENCODE, GENERATE, FILE_DATA = "encode_token_weights", "generate", "file_data"
# Keyword arguments: the name of the part that is called, "" for the composite; the options of all parts.
PART, OPTIONS = "part", "options"
# ComfyUI's names of the layers that a part may return.
_LAYERS = frozenset({"last", "pooled", "hidden", "all"})
_MOST_LAYERS = 512

# A part's `layer`, `layer_idx` and `return_projected_pooled`.
PartOptions = tuple[str | list[int], int | None, bool]
OPTION_NAMES = ("layer", "layer_idx", "return_projected_pooled")


def parts_of(model: nn.Module) -> dict[str, nn.Module]:
    """Return the parts of a text encoder by their names, "" for an encoder that is one part itself."""
    kind = importlib.import_module("comfy.sd1_clip").SDClipModel
    return {name: module for name, module in model.named_modules() if isinstance(module, kind)}


def options_of(parts: Mapping[str, nn.Module]) -> dict[str, PartOptions]:
    """Return the options that ComfyUI and nodes have set on parts."""
    found: dict[str, Any] = {}
    for name, part in parts.items():
        layer, index, projected = (getattr(part, option) for option in OPTION_NAMES)
        found[name] = (layer, index, bool(projected))
    return found


def set_options(parts: Mapping[str, nn.Module], options: Any) -> None:
    """Set the options of a call on parts.

    Raises:
        ModelRunError: they are malformed, or for other parts.
    """
    if not isinstance(options, dict) or options.keys() != parts.keys():
        raise ModelRunError("The text encoder has other parts here: use the same ComfyUI release on both sides.")
    if not all(map(_is_options, options.values())):
        raise ModelRunError("The options of the text encoder's parts are malformed: use one release on both sides.")
    for name, values in options.items():
        for option, value in zip(OPTION_NAMES, values, strict=True):
            setattr(parts[name], option, value)


def _is_options(options: Any) -> bool:
    if not isinstance(options, tuple) or len(options) != len(OPTION_NAMES):
        return False
    layer, index, projected = options
    if isinstance(layer, list):
        named = len(layer) <= _MOST_LAYERS and all(type(each) is int for each in layer)
    else:
        named = isinstance(layer, str) and layer in _LAYERS
    return named and (index is None or type(index) is int) and isinstance(projected, bool)


def weights_digest(weights: Mapping[str, torch.Tensor]) -> bytes:
    """Return a digest of the keys and shapes of weights, by which both ends see that they built the same module."""
    sha = sha256()
    for key in sorted(weights):
        sha.update(f"{key}\n{tuple(weights[key].shape)}\n".encode())
    return sha.digest()
