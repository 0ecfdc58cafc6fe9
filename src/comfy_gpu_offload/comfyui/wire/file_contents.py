"""A model file without its weights: what ComfyUI's loaders read to tell what it is, and to build it.

The worker describes a file by its keys with shapes and dtypes, its metadata, and the data of those tensors that
loaders read: numbers, names of formats, tokenizers. From these a client builds the same module without weights, by
ComfyUI's own loaders, from a state dict on the meta device: no name of a class is ever sent.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch

from ...errors import MessageError
from ...io.digests import digest
from ...io.dtypes import NAMES

# A tensor of at most so many elements is sent: scales of quantised layers, sigmas, versions.
_FEW_ELEMENTS = 16
# A larger one is sent when it is asked for, unless the client has it: a tokenizer's vocabulary.
INLINE_BYTES = 64 * 1024
# What a client takes at most.
MAX_FILES = 8
_MAX_KEYS = 100_000
_MAX_RANK = 8
_MAX_METADATA = 16 * 1024**2
_DIGEST, _BYTES = "digest", "bytes"

Shape = tuple[int, ...]


@dataclass(frozen=True)
class LargeTensor:
    """A tensor that is fetched when it is needed: a vector of uint8, named by its digest."""

    digest: bytes
    size_bytes: int


@dataclass(frozen=True)
class FileContents:
    """A file, described.

    Attributes:
        keys: shape and dtype of each tensor.
        metadata: texts by name, as safetensors files have them.
        data: tensors that loaders read, by key; those that are left are on the meta device.
    """

    keys: Mapping[str, tuple[Shape, torch.dtype]]
    metadata: Mapping[str, str]
    data: Mapping[str, torch.Tensor | LargeTensor]

    @classmethod
    def of(cls, state_dict: Mapping[str, torch.Tensor], metadata: Mapping[str, str] | None) -> FileContents:
        """Describe a file as ComfyUI has loaded it."""
        keys = {key: (tuple(tensor.shape), tensor.dtype) for key, tensor in state_dict.items()}
        data = {key: _described(tensor) for key, tensor in state_dict.items() if _is_read(tensor)}
        return cls(keys, dict(metadata or {}), data)

    def tree(self) -> dict[str, Any]:
        """Return it as a tree that can be sent."""
        data = {
            key: {_DIGEST: value.digest, _BYTES: value.size_bytes} if isinstance(value, LargeTensor) else value
            for key, value in self.data.items()
        }
        return {"keys": dict(self.keys), "metadata": dict(self.metadata), "data": data}

    @classmethod
    def read(cls, tree: Any) -> FileContents:
        """Return a file from its description by a worker, checked.

        Raises:
            MessageError: it is malformed.
        """
        if not isinstance(tree, dict) or set(tree) != {"keys", "metadata", "data"}:
            raise MessageError("the worker's description of a file is not of the expected form")
        keys, metadata, data = tree["keys"], tree["metadata"], tree["data"]
        if not isinstance(keys, dict) or len(keys) > _MAX_KEYS or not all(map(_is_key, keys.items())):
            raise MessageError("the worker's description of a file has invalid keys")
        if not _is_metadata(metadata):
            raise MessageError("the worker's description of a file has invalid metadata")
        if not isinstance(data, dict) or not data.keys() <= keys.keys():
            raise MessageError("the worker's description of a file has data of other keys")
        return cls(keys, metadata, {key: _checked(data[key], *keys[key]) for key in data})

    def state_dict(self, fetch: Callable[[LargeTensor], torch.Tensor]) -> dict[str, torch.Tensor]:
        """Return a state dict whose weights are on the meta device.

        Args:
            fetch: returns a tensor by its digest.
        """
        made = {}
        for key, (shape, dtype) in self.keys.items():
            value = self.data.get(key)
            if isinstance(value, LargeTensor):
                made[key] = fetch(value)
            else:
                made[key] = torch.empty(shape, dtype=dtype, device="meta") if value is None else value
        return made


def keys_of(details: Any) -> Iterable[str]:
    """Return the keys of weights in a worker's description of a model or another module."""
    if "keys" in details:
        return list(details["keys"])
    return [key for file in details["files"] for key in file["keys"]]


def _is_read(tensor: torch.Tensor) -> bool:
    """Return whether loaders may read its data: it is small, or bytes in a row, as tokenizers and formats are."""
    if tensor.dtype not in NAMES:
        return False
    return tensor.numel() <= _FEW_ELEMENTS or _is_bytes(tuple(tensor.shape), tensor.dtype)


def _is_bytes(shape: Shape, dtype: torch.dtype) -> bool:
    return dtype is torch.uint8 and len(shape) == 1


def _described(tensor: torch.Tensor) -> torch.Tensor | LargeTensor:
    # Of its own memory: the file's may be mapped, and change under the description.
    tensor = tensor.detach().clone().contiguous()
    return tensor if tensor.nbytes <= INLINE_BYTES else LargeTensor(digest(tensor), tensor.nbytes)


def _is_key(item: tuple[Any, Any]) -> bool:
    key, entry = item
    return (
        isinstance(key, str)
        and isinstance(entry, tuple)
        and len(entry) == 2
        and isinstance(entry[0], tuple)
        and len(entry[0]) <= _MAX_RANK
        and all(type(size) is int and 0 <= size < 2**31 for size in entry[0])
        and isinstance(entry[1], torch.dtype)
    )


def _is_metadata(metadata: Any) -> bool:
    if not isinstance(metadata, dict):
        return False
    texts = [*metadata, *metadata.values()]
    return all(isinstance(text, str) for text in texts) and sum(map(len, texts)) <= _MAX_METADATA


def _checked(value: Any, shape: Shape, dtype: torch.dtype) -> torch.Tensor | LargeTensor:
    if isinstance(value, torch.Tensor):
        if (tuple(value.shape), value.dtype) == (shape, dtype):
            return value
    elif isinstance(value, dict) and set(value) == {_DIGEST, _BYTES} and _is_bytes(shape, dtype):
        name, size = value[_DIGEST], value[_BYTES]
        if isinstance(name, bytes) and len(name) == 32 and size == shape[0]:
            return LargeTensor(name, size)
    raise MessageError("the worker's description of a file has data that does not fit its keys")
