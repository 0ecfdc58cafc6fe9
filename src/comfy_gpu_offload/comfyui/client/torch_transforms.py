"""Refusal of calls that torch would have to follow into the remote network: derivatives, batching, modes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch.autograd import forward_ad
from torch.overrides import _get_current_function_mode_stack

from ...errors import UnsupportedPatchError
from . import refusals
from .changes import code_origin


def refuse_transforms(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
    """Refuse a call that torch differentiates, transforms, or runs in a mode that replaces its functions.

    Args:
        args: the call's positional arguments.
        kwargs: the call's keyword arguments.

    Raises:
        UnsupportedPatchError: the call is of such a kind.
    """
    found = _found_transform(args, kwargs)
    if found is not None:
        raise UnsupportedPatchError((refusals.of_transform(found),))


def _found_transform(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> str | None:
    if torch._C._functorch.peek_interpreter_stack() is not None:
        return "torch.func (jvp, vjp, grad or vmap) through the network"
    if forward_ad._current_level >= 0:
        return "forward derivatives (torch.autograd.forward_ad) through the network"
    if torch.is_grad_enabled() and any(tensor.requires_grad for tensor in _tensors((*args, *kwargs.values()))):
        return "a gradient through the network"
    # Torch itself has modes too (`with torch.device(…)`): only a node pack's is refused.
    if torch._C._len_torch_function_stack():
        modes = (mode for mode in _mode_stack() if code_origin.packs_name_of(mode) is not None)
        mode = next(modes, None)
        return None if mode is None else f"the mode {type(mode).__name__}, which replaces torch's functions"
    return None


def _mode_stack() -> list[Any]:
    return list(_get_current_function_mode_stack())  # type: ignore[no-untyped-call]


def _tensors(values: Any) -> Iterator[torch.Tensor]:
    for value in values:
        if isinstance(value, torch.Tensor):
            yield value
        elif isinstance(value, list | tuple):
            yield from _tensors(value)
