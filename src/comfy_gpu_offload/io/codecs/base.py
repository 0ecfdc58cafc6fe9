"""The interfaces of a codec, and of a chooser among codecs."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar, Protocol, runtime_checkable

from ..buffers import Buffer


@runtime_checkable
class Codec(Protocol):
    """One way to store a tensor's bytes: a frozen dataclass, whose fields are its parameters.

    The frame's header states the name and the parameters, so a decoder needs nothing else. CONTRIBUTING.md, "Add a
    codec", lists what a new one consists of.

    *Threads.* Any thread calls it, several at once: a client's calling threads, and a worker's thread for each
    connection. So an instance keeps nothing between calls. What is expensive to make is kept per thread
    (`plane_blocks` does so).

    *Memory.* An encoder may return its input, or a view of it (`raw` does). The frame keeps that alive until it has
    been sent, and nothing writes to the tensor before then. A decoder may return a view of the payload as well, if
    that is writable; the payload belongs to the frame that was received, and to nothing else. What a decoder
    allocates besides the result is bounded by a constant, whatever the payload claims.

    *Time.* A decoder's time must be bounded, too: by the sizes of payload and result, to which it is proportional.
    It cannot be interrupted, and a worker decodes frames that anyone who has its token may send. `tests/io/codecs`
    checks the memory of every codec that is registered, but not the time.

    Attributes:
        name: its name in frames, in the handshake and in settings: lower-case letters, digits and hyphens.
        lossless: whether every bit comes back. A lossy codec is used only if the settings name it.
        typical_share: the share of a `bfloat16` latent's bytes that it leaves, for estimates; measured by
            `benchmarks/codecs.py`.
    """

    name: ClassVar[str]
    lossless: ClassVar[bool]
    typical_share: ClassVar[float]

    def encode(self, data: memoryview, dtype: str, shape: tuple[int, ...]) -> Buffer | None:
        """Return `data` encoded, or None if that is not smaller or this codec does not take such a tensor.

        Args:
            data: the tensor's elements in row-major order, as bytes; not to be written to.
            dtype: its dtype's name in safetensors, e.g. ``BF16``.
            shape: its shape in torch.
        """

    def decode(self, payload: memoryview, size_bytes: int, dtype: str, shape: tuple[int, ...]) -> memoryview:
        """Return the `size_bytes` bytes that `encode` was given, writable.

        `size_bytes` is what `dtype` and `shape` take; the caller has checked it against its limits.

        Raises:
            CodecError: the payload does not decode to exactly that many bytes.
        """


class Chooser(ABC):
    """A choice among lossless codecs, made for each tensor; the frame names the codec chosen.

    Attributes:
        name: its name in settings; never in a frame.
        among: the names of all codecs that may be chosen.
        typical_share: as of a codec.
    """

    name: ClassVar[str]
    among: ClassVar[tuple[str, ...]]
    typical_share: ClassVar[float]
    lossless: ClassVar[bool] = True

    @abstractmethod
    def choose(self, data: memoryview, dtype: str, shape: tuple[int, ...]) -> Codec:
        """Return the codec for this tensor; the arguments are those of `Codec.encode`."""
