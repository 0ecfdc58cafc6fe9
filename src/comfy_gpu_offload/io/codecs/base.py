"""What a codec is."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar, Protocol, runtime_checkable

from ..buffers import Buffer


@runtime_checkable
class Codec(Protocol):
    """One way to store a tensor's bytes: a frozen value, whose fields are its parameters.

    `data` is the tensor's elements in row-major order, `dtype` its name as safetensors has it, `shape` torch's.
    """

    name: ClassVar[str]
    lossless: ClassVar[bool]

    def encode(self, data: memoryview, dtype: str, shape: tuple[int, ...]) -> Buffer | None:
        """`data` encoded, or None where that would not be smaller, or such a tensor is not for this codec."""

    def decode(self, payload: memoryview, size_bytes: int, dtype: str, shape: tuple[int, ...]) -> memoryview:
        """Exactly `size_bytes` of data, writable: what `dtype` and `shape` take.

        Whatever the payload claims, no more than that and a constant is allocated.

        Raises:
            CodecError: the payload does not decode to exactly that.
        """


class Chooser(ABC):
    """Picks a codec for each tensor; the frame names the one picked.

    Attributes:
        among: the names of all that may be picked.
    """

    name: ClassVar[str]
    among: ClassVar[tuple[str, ...]]

    @abstractmethod
    def choose(self, data: memoryview, dtype: str, shape: tuple[int, ...]) -> Codec:
        """The codec to encode this tensor with."""
