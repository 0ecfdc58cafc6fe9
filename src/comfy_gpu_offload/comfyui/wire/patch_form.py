"""The wire form of a ComfyUI patcher's weight patches, and the checks of it that both ends make.

`wire.patch_writer` makes it at the client's end, `wire.patch_reader` makes patches of it at the worker's.

A template is a dict: for each key of the model that is changed, a list of patches, each
``[strength, kind, values, offset, function]``: the position of a pair of strengths; one of `FORMS`, or `MERGE`;
the values of that kind, with tensors as their digests; ``[dimension, start, length]`` or None; one of `FUNCTIONS`
or None.

A `diff` without a tensor scales its weight by the second strength and adds nothing: the first is 0. So does a
`pad`, which makes the weight larger, as ComfyUI does before it passes over a patch that does not fit.

The values of a merge are ``[model, key, patches]``: the position of a second model among those under `MODELS`; the
key of its weight, None for the same; and the patches that are on that weight before it is merged, in the same form.
A model is ``[name, weight_dtype, fingerprint]``, and a dict of the further fields of its `ModelRef` if it has some.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch

from .patch_shapes import NotDataError, Offset, Shape

# For each kind the form of its values: T a tensor, t one or None, n a number or None, S a shape, s one or None,
# b a bool.
# `TUPLES` are tuples in ComfyUI, the others classes of comfy.weight_adapter, by these names alone.
FORMS: Mapping[str, str] = {
    "LoRAAdapter": "TTntts",
    "LoHaAdapter": "TTnTTttt",
    "LoKrAdapter": "ttntttttt",
    "GLoRAAdapter": "TTTTnt",
    "OFTAdapter": "Ttnt",
    "BOFTAdapter": "Ttnt",
    "diff": "tb",
    "set": "T",
    "model_as_lora": "T",
    "pad": "S",
}
# `model_as_lora` occurs in hooks alone.
TUPLES = ("diff", "set", "model_as_lora")
# A merge, in ComfyUI a list: another model's weight with the function that converts it, and the patches on it.
MERGE = "model"
# The key of the list of second models, beside the keys of weights, each of which has a dot in it.
MODELS = "models"
MAX_MODELS = 16
# The deepest nesting of merges.
_MAX_MERGES = 8
# Functions of comfy.utils that ComfyUI's key maps give with a key.
FUNCTIONS = ("swap_scale_shift",)
NETWORK = "diffusion_model."
# Stands for a patch that ComfyUI passes over, where the weight keeps its size.
NOTHING = ("diff", [None, False])
_MAX_RANK = 8


def shape_of(key: str, shapes: Mapping[str, Shape], prefix: str = NETWORK) -> Shape:
    """Return the shape of the weight of that key.

    Args:
        prefix: with what the keys of weights begin that may be patched.

    Raises:
        NotDataError: the model has none.
    """
    if not key.startswith(prefix) or key not in shapes:
        raise NotDataError("weight patches for keys that are no weights of this model (a LoRA for another one?)")
    return shapes[key]


def offset_of(offset: Any) -> Offset | None:
    """Return the offset that was given, checked.

    Raises:
        NotDataError: it is none.
    """
    if offset is None:
        return None
    whole = isinstance(offset, tuple | list) and len(offset) == 3 and all(type(part) is int for part in offset)
    if not whole or min(offset) < 0:
        raise NotDataError("weight patches whose offset is no place in a weight")
    return offset[0], offset[1], offset[2]


def refuse_too_deep(depth: int) -> None:
    """Raise NotDataError where merges are nested deeper than anybody needs."""
    if depth >= _MAX_MERGES:
        raise NotDataError(
            f"a merge of merges over {_MAX_MERGES} deep", "ModelMergeSimple and its kin", "Merge fewer models."
        )


def check_values(kind: str, values: list[Any]) -> None:
    """Raise NotDataError where these are no values of that kind."""
    form = FORMS[kind]
    of_form = len(values) == len(form) and all(map(_is_of, form, values))
    if not of_form or (kind == "diff" and values[0] is None and values[1]):
        raise NotDataError(f"weight patches of the kind {kind} whose values are malformed")


def check_strength(kind: str, values: list[Any], strength: Any) -> None:
    """Raise NotDataError for a strength where there is nothing to add, as ComfyUI itself raises.

    Args:
        kind, values: checked by `check_values`.
        strength: a number or, of a hook, a tensor of one.
    """
    adds_nothing = kind == "pad" or (kind == "diff" and values[0] is None)
    if adds_nothing and float(strength) != 0.0:
        raise NotDataError("weight patches without a tensor whose strength is not 0, on which ComfyUI itself fails")


def _is_of(form: str, value: Any) -> bool:
    if value is None:
        return form not in "TSb"
    if form in "Tt":
        return type(value) in {torch.Tensor, torch.nn.Parameter} and _is_weight(value)
    if form == "n":
        return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    if form == "b":
        return isinstance(value, bool)
    return isinstance(value, list | tuple) and all(type(size) is int and 0 < size < 2**31 for size in value)


def _is_weight(tensor: torch.Tensor) -> bool:
    dense = tensor.layout is torch.strided and tensor.device.type != "meta"
    return dense and tensor.is_floating_point() and tensor.dim() <= _MAX_RANK
