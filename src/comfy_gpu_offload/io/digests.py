"""Content digests: the name of a tensor by all of its data."""

from __future__ import annotations

import hashlib
import weakref
from typing import Any

import msgpack
import numpy as np
import torch
import xxhash

from .buffers import tensor_bytes
from .dtypes import NAMES

DIGEST_BYTES = 32
_SAMPLES = 16
_SAMPLE_BYTES = 256


def digest(tensor: torch.Tensor) -> bytes:
    """SHA-256 over dtype, shape and every byte of the data; 32 bytes.

    Cryptographic, because a worker shares its store among clients: a name that could be forged would let one
    client's tensor stand for another's.
    """
    sha = hashlib.sha256(f"{NAMES[tensor.dtype]}{tuple(tensor.shape)}".encode())
    sha.update(tensor_bytes(tensor))
    return sha.digest()


def skeleton_digest(skeleton: Any) -> bytes:
    """SHA-256 of a tree's skeleton, as msgpack has it; 32 bytes. For trees without tensors."""
    return hashlib.sha256(msgpack.packb(skeleton)).digest()


class DigestMemo:
    """Digests of tensors that are still alive and unchanged, so that each is hashed once.

    Not thread-safe: its owner serialises access.
    """

    def __init__(self) -> None:
        self._memo: dict[int, tuple[weakref.ref[torch.Tensor], int, bytes]] = {}

    def digest(self, tensor: torch.Tensor) -> bytes:
        """`digest(tensor)`, hashed again only if the tensor was written to in between."""
        if tensor.is_inference():
            return digest(tensor)  # inference tensors count no versions, so a change could not be seen
        key = id(tensor)
        found = self._memo.get(key)
        if found is not None:
            reference, version, value = found
            if reference() is tensor and version == tensor._version:
                return value
        value = digest(tensor)
        forget = weakref.ref(tensor, lambda _, key=key: self._memo.pop(key, None))  # type: ignore[misc]
        self._memo[key] = (forget, tensor._version, value)
        return value


def sample(tensor: torch.Tensor) -> int:
    """A cheap fingerprint of some 16 evenly spaced pieces of the data.

    Different samples prove different tensors; equal samples prove nothing. Never a digest; this process's own.
    """
    data = tensor_bytes(tensor)
    step = len(data) // _SAMPLES
    if step > _SAMPLE_BYTES:
        every = np.frombuffer(data, np.uint8, step * _SAMPLES).reshape(_SAMPLES, step)
        data = memoryview(every[:, :_SAMPLE_BYTES].tobytes())
    seed = hash((tensor.dtype, tuple(tensor.shape))) % 2**64
    return xxhash.xxh3_64_intdigest(data, seed)
