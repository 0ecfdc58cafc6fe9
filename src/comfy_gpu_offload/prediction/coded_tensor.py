"""A predicted tensor on the wire: its description in the message (`Coded`), and its payload in the frame.

The payload is sent as a tensor of bytes in the place of the tensor that it stands for. What is checked here
concerns both inputs and outputs of a model; what is predicted from what is the history's affair.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
import xxhash

from ..errors import CodecError, MessageError
from ..io.buffers import Buffer, tensor_bytes, tensor_from
from ..io.dtypes import DTYPES
from ..io.strides import are_strides, with_strides
from ..protocol.messages import Coded
from . import arithmetic
from .arithmetic import Floats
from .latent import LatentBytes


class CodedTensor(NamedTuple):
    """A predicted tensor as it is sent: its description, and the payloads of its parts, joined."""

    coded: Coded
    payload: bytes

    @property
    def tensor(self) -> torch.Tensor:
        """Return the payload as the frame holds it: `uint8[N]`."""
        return tensor_from(memoryview(bytearray(self.payload)), torch.uint8, (len(self.payload),))


def coded_tensor(
    latent: LatentBytes, coefficients: Sequence[Floats], payloads: Sequence[Buffer], kept: bytes = b""
) -> CodedTensor:
    """Describe `latent`, whose parts were predicted with these coefficients and whose residuals are `payloads`.

    `kept` is the mask of an input's channels that are not sent, see `Layout.written`.
    """
    coded = Coded(
        dtype=latent.dtype,  # type: ignore[arg-type]  # a name that prediction knows; checked here as everywhere
        shape=latent.shape,
        kept=kept,
        coefficients=tuple(found.astype("<f4").tobytes() for found in coefficients),
        sizes=tuple(len(payload) for payload in payloads),
        digest=xxhash.xxh3_128_digest(latent.data),
        strides=latent.strides,
    )
    return CodedTensor(coded, b"".join(payloads))


def payload_of(tensor: torch.Tensor) -> memoryview:
    """Return the payload that a frame holds as `tensor`.

    Raises:
        MessageError: it is not `uint8[N]`.
    """
    if tensor.dtype != torch.uint8 or tensor.dim() != 1:
        raise MessageError("the payload of a predicted tensor must be bytes, in one dimension")
    return tensor_bytes(tensor)


def tensor_of(coded: Coded, data: memoryview) -> torch.Tensor:
    """Return the tensor that `coded` describes, over `data` in row-major order.

    Raises:
        CodecError: no tensor of its shape is sent with its strides.
    """
    dtype = DTYPES[coded.dtype]
    if coded.strides is not None and not are_strides(coded.shape, coded.strides, dtype.itemsize):
        raise CodecError("strides that are not of the shape announced")
    return with_strides(tensor_from(data, dtype, coded.shape), coded.strides)


def check_payload_size(coded: Coded, payload: memoryview) -> None:
    """Raise CodecError if the payloads that `coded` announces are not as long as `payload`."""
    if sum(coded.sizes) != len(payload):
        raise CodecError(f"payloads of {sum(coded.sizes)} bytes in {len(payload)}")


def check_restored(coded: Coded, data: memoryview) -> None:
    """Raise CodecError if `data` is not the tensor, in row-major order, that the sender described as `coded`."""
    if len(data) != math.prod(coded.shape) * np.dtype(arithmetic.WORDS[coded.dtype]).itemsize:
        raise CodecError("the prediction is not of the shape announced")
    if xxhash.xxh3_128_digest(data) != coded.digest:
        raise CodecError("the prediction gave another tensor than the sender's")
