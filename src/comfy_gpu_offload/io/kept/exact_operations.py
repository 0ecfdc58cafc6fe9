"""Torch's functions that a kept tensor answers without data: facts about it, and exact operations.

Each is recognised by the function object itself, with the arguments that are known here. Whatever is not recognised
is left to torch, on the data.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from types import EllipsisType
from typing import Any, Final

import torch

from .derivation import FLOATS, MOST_NUMBERS, Step
from .kept_tensor import KeptTensor, made_by

_T = torch.Tensor
_NAMES: Final = {dtype: name for name, dtype in FLOATS.items()}

# Properties and methods that say something of a tensor that does not depend on its data.
_PROPERTIES: Final = frozenset(
    {"shape", "dtype", "device", "layout", "ndim", "nbytes", "itemsize", "requires_grad", "is_leaf", "is_nested"}
    | {"is_cpu", "is_cuda", "is_hpu", "is_ipu", "is_maia", "is_meta", "is_mkldnn", "is_mps", "is_mtia", "is_ort"}
    | {"is_quantized", "is_sparse", "is_sparse_csr", "is_vulkan", "is_xla", "is_xpu"}
)
_METHODS: Final = frozenset(
    {"size", "stride", "dim", "ndimension", "numel", "nelement", "element_size", "get_device", "__len__"}
    | {"is_contiguous", "is_floating_point", "is_complex", "is_signed", "is_conj", "is_neg"}
)
_FACTS: Final = frozenset(
    {getattr(_T, name).__get__ for name in _PROPERTIES if hasattr(_T, name)}
    | {getattr(_T, name) for name in _METHODS}
    | {torch.is_floating_point, torch.is_complex, torch.numel}
)
# Functions that make another tensor like this one, for which a tensor without data is enough.
_LIKE: Final = frozenset(
    {torch.empty_like, torch.zeros_like, torch.ones_like, torch.full_like, torch.rand_like, torch.randn_like}
    | {_T.new_empty, _T.new_zeros, _T.new_ones, _T.new_full}
)


def call(func: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
    """Return the result of a function of torch, some of whose arguments are kept tensors.

    `NotImplemented` if that takes their data, or the function or its arguments are none that are known here.
    """
    first = args[0] if args else None
    if func in _JOINS:
        return _joined(args, kwargs)
    if not isinstance(first, KeptTensor):
        return NotImplemented
    if func in _FACTS:
        return _fact(func, first, args[1:], kwargs)
    if func in _LIKE:
        return func(first.node.like, *args[1:], **{"device": first.device, **kwargs})
    known = _EXACT.get(func)
    if known is None:
        return NotImplemented
    with torch._C.DisableTorchFunctionSubclass():
        device, dtype = first.device, first.dtype
    made = known(_Given(first, device, dtype, args[1:], dict(kwargs)))
    return NotImplemented if made is None else made


def _fact(func: Any, tensor: KeptTensor, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
    # Functions that work in place may have changed the facts of the data.
    real = tensor.node.real
    if real is not None:
        return func(real, *args, **kwargs)
    with torch._C.DisableTorchFunctionSubclass():
        return func(tensor, *args, **kwargs)


class _Given:
    """A call of a method: the tensor, and the further arguments."""

    def __init__(
        self,
        tensor: KeptTensor,
        device: torch.device,
        dtype: torch.dtype,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
    ) -> None:
        self.tensor = tensor
        self.device = device
        self.dtype = dtype
        self.args = args
        self.kwargs = kwargs

    def numbers(self, *names: str) -> tuple[int, ...] | None:
        """Return whole numbers given by position or by name, or None if they are given otherwise."""
        values = [*self.args, *(self.kwargs.pop(name) for name in names[len(self.args) :] if name in self.kwargs)]
        if self.kwargs or len(values) != len(names):
            return None
        return _whole(values)

    def sizes(self, *names: str) -> tuple[int, ...] | None:
        """Return sizes, given one by one or as one sequence, or None if they are given otherwise."""
        values: Sequence[Any] = self.args
        if not values and len(self.kwargs) == 1 and next(iter(self.kwargs)) in names:
            values = (next(iter(self.kwargs.values())),)
        elif self.kwargs:
            return None
        if len(values) == 1 and isinstance(values[0], list | tuple):
            values = values[0]
        return _whole(values) if len(values) <= MOST_NUMBERS else None

    def by(self, operation: str, numbers: tuple[int, ...] | None) -> torch.Tensor | None:
        """Return the result of an operation; None if the numbers are not known."""
        return None if numbers is None else made_by(Step(operation, (), numbers), [self.tensor], self.device)


def _whole(values: Sequence[Any]) -> tuple[int, ...] | None:
    return tuple(values) if all(type(value) is int and abs(value) < 2**62 for value in values) else None


def _to(given: _Given) -> torch.Tensor | None:
    copies = given.kwargs.pop("copy", False)
    try:
        with torch._C.DisableTorchFunctionSubclass():
            device, dtype, _, memory_format = torch._C._nn._parse_to(*given.args, **given.kwargs)
    except (TypeError, RuntimeError):  # also for `copy` by position
        return None
    if memory_format is not None:
        return None
    made: torch.Tensor | None = given.tensor
    if dtype is not None:
        made = _cast(given.tensor, given.dtype, dtype, given.device)
    if device is not None and device.type == "meta":
        return None
    device = given.device if device is None else _whole_device(device)
    if isinstance(made, KeptTensor) and device != given.device:
        made = made_by(None, [made], device)
    if copies and made is given.tensor:
        made = made_by(Step("clone", ()), [given.tensor], given.device)
    return made


def _whole_device(device: torch.device) -> torch.device:
    # With its index, and an error for a device that is not there.
    return torch.empty(0, device=device).device


def _cast(tensor: KeptTensor, now: torch.dtype, dtype: torch.dtype, device: torch.device) -> torch.Tensor | None:
    if now is dtype:
        return tensor
    if now not in _NAMES or dtype not in _NAMES:
        return None
    return made_by(Step("cast", (), (), _NAMES[dtype]), [tensor], device)


def _as(dtype: torch.dtype) -> Callable[[_Given], torch.Tensor | None]:
    def cast(given: _Given) -> torch.Tensor | None:
        return None if given.args or given.kwargs else _cast(given.tensor, given.dtype, dtype, given.device)

    return cast


def _on_cpu(given: _Given) -> torch.Tensor | None:
    if given.args or given.kwargs:
        return None
    cpu = torch.device("cpu")
    return given.tensor if given.device == cpu else made_by(None, [given.tensor], cpu)


def _contiguous(given: _Given) -> torch.Tensor | None:
    if given.args or given.kwargs:
        return None
    return given.tensor if given.tensor.is_contiguous() else given.by("contiguous", ())


def _clone(given: _Given) -> torch.Tensor | None:
    return None if given.args or given.kwargs else given.by("clone", ())


def _transposed(given: _Given) -> torch.Tensor | None:
    numbers = given.numbers("dim0", "dim1")
    count = given.tensor.dim()
    if numbers is None or not all(-count <= dim < count for dim in numbers):
        return None
    dims = list(range(count))
    one, other = numbers
    dims[one], dims[other] = dims[other], dims[one]
    return given.by("permute", tuple(dims))


def _item(given: _Given) -> torch.Tensor | None:
    """Return `tensor[index]` for whole numbers, slices that go forward one by one, None and an ellipsis."""
    (index,) = given.args
    parts = list(index) if isinstance(index, tuple) else [index]
    if not all(part is None or type(part) in {int, slice, EllipsisType} for part in parts):
        return None
    if not given.tensor.dim():
        return None
    missing = given.tensor.dim() - sum(part is not None and part is not Ellipsis for part in parts)
    if missing < 0 or parts.count(Ellipsis) > 1:
        return None
    at = parts.index(Ellipsis) if Ellipsis in parts else len(parts)
    parts[at : at + 1] = [slice(None)] * missing
    return _indexed(given.tensor, parts, given.device)


def _indexed(tensor: KeptTensor, parts: list[Any], device: torch.device) -> torch.Tensor | None:
    # An index that selects everything is a view, and no other object than the tensor.
    made: torch.Tensor | None = made_by(Step("narrow", (), (0, 0, len(tensor))), [tensor], device)
    dim = 0
    for part in parts:
        if not isinstance(made, KeptTensor):
            return None
        step = _index_step(part, dim, made.shape[dim] if dim < made.dim() else 0)
        if step is None:
            return None
        made = made if step.operation == "narrow" and part == slice(None) else made_by(step, [made], device)
        dim += type(part) is not int
    return made


def _index_step(part: Any, dim: int, size: int) -> Step | None:
    if part is None:
        return Step("unsqueeze", (), (dim,))
    if type(part) is int:
        return Step("select", (), (dim, part))
    try:
        start, stop, stride = part.indices(size)
    except TypeError:  # a slice by tensors
        return None
    return Step("narrow", (), (dim, start, max(0, stop - start))) if stride == 1 else None


def _joined(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
    names = ("tensors", "dim")
    named = {
        **dict(zip(names, args, strict=False)),
        **{("dim" if k == "axis" else k): v for k, v in kwargs.items()},
    }
    tensors, dim = named.pop("tensors", None), named.pop("dim", 0)
    if named or len(args) > len(names) or not isinstance(tensors, list | tuple) or type(dim) is not int:
        return NotImplemented
    if not tensors or not all(isinstance(tensor, KeptTensor) for tensor in tensors):
        return NotImplemented
    if len({tensor.device for tensor in tensors}) > 1 or len(tensors) > MOST_NUMBERS:
        return NotImplemented
    made = made_by(Step("cat", (), (dim,)), list(tensors), tensors[0].device)
    return NotImplemented if made is None else made


_JOINS: Final = frozenset({torch.cat, torch.concat, torch.concatenate})
_EXACT: Final[Mapping[Any, Callable[[_Given], torch.Tensor | None]]] = {
    _T.__getitem__: _item,
    _T.to: _to,
    _T.cpu: _on_cpu,
    _T.float: _as(torch.float32),
    _T.half: _as(torch.float16),
    _T.bfloat16: _as(torch.bfloat16),
    _T.double: _as(torch.float64),
    _T.contiguous: _contiguous,
    _T.clone: _clone,
    torch.clone: _clone,
    _T.repeat: lambda given: given.by("repeat", given.sizes("repeats")),
    _T.expand: lambda given: given.by("expand", given.sizes("size")),
    _T.reshape: lambda given: given.by("reshape", given.sizes("shape")),
    torch.reshape: lambda given: given.by("reshape", given.sizes("shape")),
    _T.permute: lambda given: given.by("permute", given.sizes("dims")),
    torch.permute: lambda given: given.by("permute", given.sizes("dims")),
    _T.transpose: _transposed,
    torch.transpose: _transposed,
    _T.narrow: lambda given: given.by("narrow", given.numbers("dim", "start", "length")),
    torch.narrow: lambda given: given.by("narrow", given.numbers("dim", "start", "length")),
    _T.select: lambda given: given.by("select", given.numbers("dim", "index")),
    _T.unsqueeze: lambda given: given.by("unsqueeze", given.numbers("dim")),
    torch.unsqueeze: lambda given: given.by("unsqueeze", given.numbers("dim")),
    _T.squeeze: lambda given: given.by("squeeze", given.numbers("dim")),
    torch.squeeze: lambda given: given.by("squeeze", given.numbers("dim")),
}
