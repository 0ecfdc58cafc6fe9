"""A call's arguments as a skeleton of plain values and a list of tensors, and back.

The skeleton is what msgpack can carry with every type still told apart: scalars stand for themselves, and
everything else is a list that begins with a tag (docs/frame.md, "The tree"). Only plain types are sent. Anything
else is refused with the path at which it was found.
"""

from __future__ import annotations

import dataclasses
import uuid
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
import torch

from ..errors import FrameError, UnsupportedValueError
from .dtypes import NAMES, TORCH_DTYPES
from .kept.kept_tensor import KeptTensor

# Deep enough for any call seen, shallow enough that neither side can run out of stack.
MAX_DEPTH = 64
MAX_NODES = 200_000
_PLAIN = frozenset({bool, float, bytes})
_TENSORS = frozenset({torch.Tensor, torch.nn.Parameter, KeptTensor})
_CONTAINERS = frozenset({list, tuple, torch.Size, dict, OrderedDict})
_INT64 = range(-(2**63), 2**64)
# Below the length at which Python itself refuses (sys.int_info.default_max_str_digits); the bits fit into it.
_MAX_BIG_INT_DIGITS = 4096
_MAX_BIG_INT_BITS = 13_600

# A tree holds whatever a caller passes to a model; its leaves have no narrower type than this.
Tree = Any
Skeleton = Any


@dataclasses.dataclass(frozen=True)
class PackedTree:
    """A tree taken apart.

    Attributes:
        skeleton: the structure, as values that msgpack carries.
        tensors: the tensors the skeleton refers to by position; each object once.
        paths: where each tensor was first found, e.g. ``args[0]``; unique.
    """

    skeleton: Skeleton
    tensors: tuple[torch.Tensor, ...] = ()
    paths: tuple[str, ...] = ()


class Record(Mapping[str, Any]):
    """Named fields, by attribute, by name or by position: a diffusers model's output, or its config."""

    def __init__(self, fields: Mapping[str, Any]) -> None:
        self._fields = dict(fields)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_") or name not in self._fields:
            raise AttributeError(f"there is no field {name!r}, only {sorted(self._fields)}")
        return self._fields[name]

    def __getitem__(self, key: str | int | slice) -> Any:
        return self._fields[key] if isinstance(key, str) else self.to_tuple()[key]

    def __iter__(self) -> Iterator[str]:
        return iter(self._fields)

    def __len__(self) -> int:
        return len(self._fields)

    def to_tuple(self) -> tuple[Any, ...]:
        """Return the fields that are not None, in order, as `BaseOutput.to_tuple` of diffusers does."""
        return tuple(value for value in self._fields.values() if value is not None)


def pack(value: Tree, root: str = "value") -> PackedTree:
    """Take `value` apart; `root` names it in paths and errors.

    Raises:
        UnsupportedValueError: something in it cannot be sent.
    """
    packer = _Packer()
    skeleton = packer.pack(value, root, 0)
    return PackedTree(skeleton, tuple(packer.tensors), tuple(packer.paths))


def pack_call(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> PackedTree:
    """Take a call's arguments apart; paths begin with ``args`` or ``kwargs``.

    Raises:
        UnsupportedValueError: something in them cannot be sent.
    """
    packer = _Packer()
    skeleton = ["t", packer.pack(args, "args", 1), packer.pack(dict(kwargs), "kwargs", 1)]
    return PackedTree(skeleton, tuple(packer.tensors), tuple(packer.paths))


class _Packer:
    def __init__(self) -> None:
        self.tensors: list[torch.Tensor] = []
        self.paths: list[str] = []
        self._positions: dict[int, int] = {}
        self._nodes = 0

    def pack(self, value: Tree, path: str, depth: int) -> Skeleton:
        self._nodes += 1
        if depth > MAX_DEPTH or self._nodes > MAX_NODES:
            raise UnsupportedValueError(
                path, _kind(value), f"it is nested over {MAX_DEPTH} deep or has over {MAX_NODES} parts"
            )
        kind = type(value)
        if value is None or kind in _PLAIN:
            return value
        if kind in _CONTAINERS:
            return self._pack_container(value, path, depth)
        if isinstance(value, torch.Tensor):
            return ["T", self._place(value, path)]
        if _is_numpy_number(value):
            return self.pack(value.item(), path, depth)
        if type(value) in {int, str} or isinstance(value, torch.dtype | uuid.UUID):
            return _pack_leaf(value, path)
        return self._pack_container(value, path, depth)

    def _pack_container(self, value: Tree, path: str, depth: int) -> Skeleton:
        kind = type(value)
        if kind is list or kind is tuple or kind is torch.Size:
            tag = "l" if kind is list else "t"
            return [tag, *(self.pack(item, f"{path}[{i}]", depth + 1) for i, item in enumerate(value))]
        if kind is dict or kind is OrderedDict:
            return ["d", *self._pack_items(value, path, depth)]
        if isinstance(value, OrderedDict) and dataclasses.is_dataclass(value):
            return ["r", *self._pack_items(value, path, depth)]
        raise UnsupportedValueError(path, _kind(value), "it is not plain data")

    def _pack_items(self, value: Mapping[Any, Any], path: str, depth: int) -> Iterator[Skeleton]:
        for key, item in value.items():
            yield self.pack(key, f"a key of {path}", depth + 1)
            yield self.pack(item, f"{path}[{key!r:.80}]", depth + 1)

    def _place(self, tensor: torch.Tensor, path: str) -> int:
        known = self._positions.get(id(tensor))
        if known is not None:
            return known
        _refuse_odd(tensor, path)
        position = len(self.tensors)
        self._positions[id(tensor)] = position
        self.tensors.append(tensor)
        # Two keys can look alike once shortened; the position keeps their paths apart.
        self.paths.append(f"{path} #{position}" if path in self.paths else path)
        return position


def _is_numpy_number(value: Tree) -> bool:
    # A long double has no Python number to become, and a time span would lose its unit.
    odd = isinstance(value, np.longdouble | np.timedelta64)
    return isinstance(value, np.bool_ | np.integer | np.floating) and not odd


def _pack_leaf(value: int | str | torch.dtype | uuid.UUID, path: str) -> Skeleton:
    if isinstance(value, torch.dtype):
        return ["y", str(value).removeprefix("torch.")]
    if isinstance(value, uuid.UUID):
        return ["u", value.bytes]
    if isinstance(value, str):
        return _checked_text(value, path)
    if value in _INT64:
        return value
    if value.bit_length() > _MAX_BIG_INT_BITS:
        raise UnsupportedValueError(path, "int", f"it has over {_MAX_BIG_INT_BITS} bits")
    return ["i", str(value)]


def _checked_text(value: str, path: str) -> str:
    try:
        value.encode()
    except UnicodeEncodeError:
        raise UnsupportedValueError(path, "str", "it holds a lone surrogate, which UTF-8 cannot say") from None
    return value


def _refuse_odd(tensor: torch.Tensor, path: str) -> None:
    is_dense = tensor.layout is torch.strided and not tensor.is_quantized and not tensor.is_meta
    if type(tensor) in _TENSORS and is_dense and tensor.dtype in NAMES:
        return
    kind = _kind(tensor)
    if type(tensor) not in _TENSORS:
        raise UnsupportedValueError(path, kind, "only plain tensors do; convert it first")
    if tensor.layout is not torch.strided or tensor.is_quantized:
        raise UnsupportedValueError(path, kind, f"its layout is {tensor.layout}; make it dense first")
    if tensor.device.type == "meta":
        raise UnsupportedValueError(path, kind, "it is on the meta device and has no data")
    raise UnsupportedValueError(path, kind, f"its dtype is {tensor.dtype}; one of safetensors' is needed")


def _kind(value: object) -> str:
    kind = type(value)
    return kind.__qualname__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__qualname__}"


def unpack(skeleton: Skeleton, tensors: tuple[torch.Tensor, ...]) -> Tree:
    """Put a tree together again.

    Raises:
        FrameError: `bad_tree`: the skeleton has an unknown tag, refers to a tensor that is not there, or is
            nested too deep.
    """
    return _Unpacker(tensors).unpack(skeleton, 0)


class _Unpacker:
    def __init__(self, tensors: tuple[torch.Tensor, ...]) -> None:
        self._tensors = tensors
        self._nodes = 0

    def unpack(self, node: Skeleton, depth: int) -> Tree:
        self._nodes += 1
        if depth > MAX_DEPTH or self._nodes > MAX_NODES:
            raise _bad_tree(f"nested over {MAX_DEPTH} deep or over {MAX_NODES} parts")
        if not isinstance(node, list):
            if node is None or isinstance(node, bool | int | float | str | bytes):
                return node
            raise _bad_tree(f"a {type(node).__name__} stands where a value should")
        if not node or not isinstance(node[0], str):
            raise _bad_tree("a list without a tag")
        tag = node[0]
        if tag in ("l", "t"):
            items = [self.unpack(item, depth + 1) for item in node[1:]]
            return items if tag == "l" else tuple(items)
        if tag in ("d", "r"):
            return self._unpack_items(tag, node[1:], depth)
        if len(node) != 2:
            raise _bad_tree(f"the tag {tag!r:.20} takes one value, not {len(node) - 1}")
        return self._unpack_leaf(tag, node[1])

    def _unpack_items(self, tag: str, rest: list[Skeleton], depth: int) -> Tree:
        if len(rest) % 2:
            raise _bad_tree("a key without a value")
        fields: dict[Any, Any] = {}
        for key, item in zip(rest[::2], rest[1::2], strict=True):
            name = self.unpack(key, depth + 1)
            try:
                repeated = name in fields
            except TypeError as error:
                raise _bad_tree(f"a {type(name).__name__} cannot be a key") from error
            if repeated or (tag == "r" and not isinstance(name, str)):
                raise _bad_tree("a key that is repeated, or a field that is not named by a string")
            fields[name] = self.unpack(item, depth + 1)
        return fields if tag == "d" else Record(fields)

    def _unpack_leaf(self, tag: str, value: Skeleton) -> Tree:
        if tag == "T" and type(value) is int and 0 <= value < len(self._tensors):
            return self._tensors[value]
        if tag == "y" and isinstance(value, str) and value in TORCH_DTYPES:
            return TORCH_DTYPES[value]
        if tag == "u" and isinstance(value, bytes) and len(value) == 16:
            return uuid.UUID(bytes=value)
        if tag == "i" and isinstance(value, str) and len(value) <= _MAX_BIG_INT_DIGITS:
            try:
                return int(value)
            except ValueError as error:
                raise _bad_tree("a number that is not one") from error
        raise _bad_tree(f"the tag {tag!r:.20} is unknown, or its value does not fit it")


def map_tensors(value: Tree, function: Callable[[torch.Tensor], torch.Tensor]) -> Tree:
    """Return the same tree with `function` applied to every tensor."""
    if isinstance(value, torch.Tensor):
        return function(value)
    if isinstance(value, Record):
        return Record({key: map_tensors(item, function) for key, item in value.items()})
    if isinstance(value, dict):
        return {key: map_tensors(item, function) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(map_tensors(item, function) for item in value)
    return value


def first_tensor(value: Tree) -> torch.Tensor | None:
    """Return the first tensor of a tree, in the order of its parts, or None."""
    if isinstance(value, torch.Tensor):
        return value
    if isinstance(value, Mapping):
        value = list(value.values())
    if isinstance(value, list | tuple):
        return next((found for item in value if (found := first_tensor(item)) is not None), None)
    return None


def _bad_tree(detail: str) -> FrameError:
    return FrameError("bad_tree", detail)
