"""An HTTP/1.1 response on a polled socket, and the frames in its body."""

from __future__ import annotations

from ..errors import ConnectionLostError
from ..io.buffers import allocate
from ..io.frame import PRELUDE, FrameLimits, frame_size
from ..net.http_reader import Body, HttpReader
from .interruptible_socket import PolledSocket

_MAX_TEXT_BYTES = 2048


class Response:
    """A response whose body is read piece by piece.

    Attributes:
        headers: by their names in lower case.
        media_type: in lower case and without parameters.
    """

    def __init__(self, polled: PolledSocket) -> None:
        """Read the head, after those of interim responses.

        Raises:
            BadHttpError: it is not HTTP/1.1.
            DisconnectedError: the connection ended early.
            What `polled` raises.
        """
        self._reader = HttpReader(polled.receive_into)
        while (head := self._reader.response_head()).status < 200:
            pass
        self.status, self.headers, self.media_type = head.status, head.headers, head.media_type
        self._keep_alive = head.keep_alive
        self._body = Body(self._reader, head.length, is_chunked=head.is_chunked)

    @property
    def kept_alive(self) -> bool:
        """Return whether the response was read to its end, and the connection can be used again."""
        return self._keep_alive and self._body.ended and self._reader.first_byte() is None

    def frame(self, limits: FrameLimits) -> memoryview | None:
        """Read the next frame into memory of its own, writable; None if the body has ended.

        Raises:
            FrameError: the next bytes are no frame, or one over the limits.
            ConnectionLostError: the body ended in the middle of a frame, or as the body's reader raises.
            What `polled` raises.
        """
        prelude = bytearray(PRELUDE.size)
        have = self._body.read_into(memoryview(prelude))
        if not have:
            return None
        size = frame_size(prelude[:have], limits)
        frame = allocate(size)
        frame[: PRELUDE.size] = prelude
        have += self._body.read_into(frame[PRELUDE.size :])
        if have < size:
            raise ConnectionLostError(f"the reply ended after {have} of {size} bytes")
        return frame

    def has_more(self) -> bool:
        """Return whether the body goes on; a byte of it is lost then. Raises as `frame`, but no FrameError."""
        return not self._body.ended and self._body.read_into(memoryview(bytearray(1))) > 0

    def text(self) -> str:
        """Read the beginning of the body as text. Raises as `has_more`."""
        text = memoryview(bytearray(_MAX_TEXT_BYTES))
        return bytes(text[: self._body.read_into(text)]).decode("utf-8", "replace")
