"""A frame that arrives in parts, put together in its own memory."""

from __future__ import annotations

from ..errors import FrameError
from .buffers import allocate
from .frame import PRELUDE, frame_size
from .limits import DEFAULT_LIMITS, FrameLimits


class FrameReader:
    """Puts frames together from parts of any size, one frame after another. Not thread-safe."""

    def __init__(self, limits: FrameLimits = DEFAULT_LIMITS) -> None:
        self._limits = limits
        self._prelude = bytearray()
        self._frame: memoryview | None = None
        self._filled = 0

    @property
    def is_between_frames(self) -> bool:
        """Return whether no frame has begun and not ended."""
        return self._frame is None and not self._prelude

    @property
    def allocated_bytes(self) -> int:
        """Return the size of the unfinished frame, once it is known."""
        return 0 if self._frame is None else len(self._frame)

    def feed(self, part: bytes | bytearray | memoryview) -> list[memoryview]:
        """Copy `part`, and return the frames that it completes, writable and aligned.

        Raises:
            FrameError: what arrives is no frame, or larger than the limits allow; found by its first bytes.
        """
        frames: list[memoryview] = []
        rest = memoryview(part)
        while rest:
            if self._frame is None:
                rest = self._begin(rest)
            if self._frame is not None:
                rest = self._fill(self._frame, rest)
                if self._filled == len(self._frame):
                    frames.append(self._frame)
                    self._frame, self._prelude = None, bytearray()
        return frames

    def _begin(self, part: memoryview) -> memoryview:
        missing = PRELUDE.size - len(self._prelude)
        self._prelude += part[:missing]
        if len(self._prelude) == PRELUDE.size:
            self._frame = allocate(frame_size(self._prelude, self._limits))
            self._frame[: PRELUDE.size] = self._prelude
            self._filled = PRELUDE.size
        return part[missing:]

    def _fill(self, frame: memoryview, part: memoryview) -> memoryview:
        count = min(len(part), len(frame) - self._filled)
        frame[self._filled : self._filled + count] = part[:count]
        self._filled += count
        return part[count:]


def whole_frame(body: bytes | memoryview, limits: FrameLimits = DEFAULT_LIMITS) -> memoryview | None:
    """Return a copy of `body` if it has the length that its prelude claims; None if it is no frame."""
    try:
        frames = FrameReader(limits).feed(memoryview(body))
    except FrameError:
        return None
    return frames[0] if len(frames) == 1 and len(frames[0]) == len(body) else None
