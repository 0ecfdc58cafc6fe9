"""The form of a ControlNet's residuals on the wire: written by the client, read by the worker.

ComfyUI hands them to the network as a dict of lists of tensors and None. Here each tensor that differs stands once,
and one that is a few copies of a part along its batch as ``{"copies": count, "of": part}``.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from ...backends.base import ModelRunError
from ...io.buffers import on_host, tensor_bytes
from ...io.codecs.copies import copies_in
from ...io.digests import sample
from ...io.strides import are_strides, with_strides

_COPIES, _PART = "copies", "of"
_MOST_COPIES = 64


def pack_residuals(control: Any, dtype: torch.dtype | None = None) -> tuple[Any, int]:
    """Return a call's `control` in its wire form, and the bytes of its tensors.

    Values that are none of ComfyUI's stay as they are.

    Args:
        dtype: wider floating-point tensors are rounded to it; None to round none.
    """
    packer = _Packer(dtype)
    return _mapped(control, packer), packer.size_bytes


def unpack_residuals(control: Any) -> Any:
    """Return residuals as ComfyUI has them, from the form of `pack_residuals`.

    Raises:
        ModelRunError: it is not of that form.
    """
    if isinstance(control, dict) and set(control) == {_COPIES, _PART}:
        return _repeated(control[_PART], control[_COPIES])
    if isinstance(control, dict):
        return {key: unpack_residuals(item) for key, item in control.items()}
    if isinstance(control, list):
        return [unpack_residuals(item) for item in control]
    return control


class _Packer:
    """The tensors of one call so far, of which equal ones become one."""

    def __init__(self, dtype: torch.dtype | None) -> None:
        self.size_bytes = 0
        self._dtype = dtype
        self._by_object: dict[int, tuple[torch.Tensor, Any]] = {}
        self._by_sample: dict[int, list[torch.Tensor]] = {}

    def __call__(self, tensor: torch.Tensor) -> Any:
        known = self._by_object.get(id(tensor))
        if known is None:
            known = self._by_object[id(tensor)] = (tensor, self._packed(tensor))
        return known[1]

    def _packed(self, tensor: torch.Tensor) -> Any:
        if tensor.layout is not torch.strided or tensor.device.type == "meta":
            return tensor  # cannot be sent: refused when the call is packed, by its place there
        tensor = on_host(tensor)
        if tensor.is_floating_point() and self._dtype is not None and tensor.itemsize > self._dtype.itemsize:
            tensor = with_strides(tensor.to(self._dtype), tensor.stride())
        count = copies_in(tensor_bytes(tensor), tuple(tensor.shape))
        part = self._once(tensor[: tensor.shape[0] // count] if count > 1 else tensor)
        return {_COPIES: count, _PART: part} if count > 1 else part

    def _once(self, tensor: torch.Tensor) -> torch.Tensor:
        alike = self._by_sample.setdefault(sample(tensor), [])
        for other in alike:
            same_form = (other.dtype, other.shape) == (tensor.dtype, tensor.shape)
            if same_form and other.stride() == tensor.stride() and torch.equal(_bits(other), _bits(tensor)):
                return other
        alike.append(tensor)
        self.size_bytes += tensor.nbytes
        return tensor


def _bits(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.reshape(-1).view(torch.uint8)


def _mapped(value: Any, function: Callable[[torch.Tensor], Any]) -> Any:
    if isinstance(value, torch.Tensor):
        return function(value)
    if type(value) is dict:
        return {key: _mapped(item, function) for key, item in value.items()}
    return [_mapped(item, function) for item in value] if type(value) is list else value


def _repeated(part: Any, count: Any) -> torch.Tensor:
    if (
        type(count) is not int
        or not 1 < count <= _MOST_COPIES
        or not isinstance(part, torch.Tensor)
        or not part.dim()
    ):
        raise ModelRunError(
            "The ControlNet's residuals are not of a form known here: use one release on both sides."
        )
    whole = part.repeat(count, *[1] * (part.dim() - 1))
    # A part of a batch has the strides of the batch.
    return with_strides(whole, part.stride() if are_strides(whole.shape, part.stride(), whole.itemsize) else None)
