"""Content digests, which name a tensor by all of its data."""

from __future__ import annotations

import hashlib
import secrets
import weakref
from collections import OrderedDict
from typing import Any

import msgpack
import numpy as np
import torch
import xxhash

from .buffers import tensor_bytes
from .dtypes import NAMES
from .strides import strides_of

DIGEST_BYTES = 32
_SAMPLES = 16
_SAMPLE_BYTES = 256
# SHA-256 of a smaller tensor takes next to no time.
_LARGE_BYTES = 64 * 1024
_CONTENTS_KEPT = 256


def digest(tensor: torch.Tensor) -> bytes:
    """Return SHA-256 over dtype, shape, strides if they are not row-major, and all of the data; 32 bytes.

    Cryptographic, because a worker shares its store among clients: a name that could be forged would let one
    client's tensor stand for another's.
    """
    sha = hashlib.sha256(f"{NAMES[tensor.dtype]}{tuple(tensor.shape)}{strides_of(tensor) or ''}".encode())
    sha.update(tensor_bytes(tensor))
    return sha.digest()


def skeleton_digest(skeleton: Any) -> bytes:
    """Return SHA-256 of a tree's skeleton, packed by msgpack; 32 bytes. For trees without tensors."""
    return hashlib.sha256(msgpack.packb(skeleton)).digest()


class DigestMemo:
    """The digests of recent tensors. Not thread-safe: its owner serialises access.

    A tensor that is still alive and unchanged is hashed once. A new tensor of the same content, as conditioning is
    at every step, is recognised by XXH3 in a seventh of the time of SHA-256. XXH3's seed is secret, so nobody can
    make two contents that it takes for one.
    """

    def __init__(self) -> None:
        self._memo: dict[int, tuple[weakref.ref[torch.Tensor], int, bytes]] = {}
        self._contents: OrderedDict[tuple[Any, ...], bytes] = OrderedDict()
        self._seed = secrets.randbits(64)

    def digest(self, tensor: torch.Tensor) -> bytes:
        """Return `digest(tensor)`, hashed again only if the tensor has been written to since."""
        if tensor.is_inference():
            return self._by_content(tensor)  # inference tensors count no versions, so a change would go unnoticed
        key = id(tensor)
        found = self._memo.get(key)
        if found is not None:
            reference, version, value = found
            if reference() is tensor and version == tensor._version:
                return value
        value = self._by_content(tensor)
        forget = weakref.ref(tensor, lambda _, key=key: self._memo.pop(key, None))  # type: ignore[misc]
        self._memo[key] = (forget, tensor._version, value)
        return value

    def _by_content(self, tensor: torch.Tensor) -> bytes:
        if tensor.nbytes < _LARGE_BYTES:
            return digest(tensor)
        seen = xxhash.xxh3_128_digest(tensor_bytes(tensor), self._seed)
        key = (seen, tensor.dtype, tuple(tensor.shape), strides_of(tensor))
        value = self._contents.get(key)
        if value is None:
            value = self._contents[key] = digest(tensor)
            if len(self._contents) > _CONTENTS_KEPT:
                self._contents.popitem(last=False)
        else:
            self._contents.move_to_end(key)
        return value


def sample(tensor: torch.Tensor) -> int:
    """Return a cheap fingerprint of 16 evenly spaced pieces of the data, valid in this process only.

    Different fingerprints prove that two tensors differ; equal ones prove nothing.
    """
    data = tensor_bytes(tensor)
    step = len(data) // _SAMPLES
    if step > _SAMPLE_BYTES:
        every = np.frombuffer(data, np.uint8, step * _SAMPLES).reshape(_SAMPLES, step)
        data = memoryview(every[:, :_SAMPLE_BYTES].tobytes())
    seed = hash((tensor.dtype, tuple(tensor.shape))) % 2**64
    return xxhash.xxh3_64_intdigest(data, seed)
