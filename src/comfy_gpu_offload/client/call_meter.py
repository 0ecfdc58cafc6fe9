"""The measurements of one call: seconds by what they were spent on, and bytes."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from time import perf_counter

from ..io.frame import EncodedFrame
from ..protocol.messages import Result
from ..transport.startup_time import waited_s
from .timings import CallTimings
from .weight_patches import PatchUploads


class CallMeter:
    """The times and bytes of a call that is under way. They grow with each attempt. For one thread.

    Args:
        begun: when the caller began to wait for the call, by `perf_counter`.
        keeps_lost: whether an exchange whose connection was lost counts. A sampling run goes on meanwhile, so its
            exchanges do; a forward call is computed again, so they do not.
    """

    def __init__(self, begun: float, *, keeps_lost: bool = False) -> None:
        self._begun = begun
        self._keeps_lost = keeps_lost
        self._upload_s = self._encode_s = self._exchange_s = 0.0
        self._pack_s = perf_counter() - begun
        self._bytes_up = self._bytes_down = self._exchanges = 0

    @contextmanager
    def uploading(self, uploads: PatchUploads) -> Iterator[None]:
        """Count what the block uploads ahead of the call."""
        before, started = uploads.bytes_up, perf_counter()
        yield
        self._upload_s += perf_counter() - started
        self._bytes_up += uploads.bytes_up - before

    def sending(self, frame: EncodedFrame, *, pack_s: float = 0.0, encode_s: float) -> None:
        """Count a frame that is about to be sent, and the seconds that it took to make."""
        self._pack_s += pack_s
        self._encode_s += encode_s
        self._bytes_up += frame.size_bytes
        self._exchanges += 1

    def received(self, size_bytes: int) -> None:
        """Count a frame that has come."""
        self._bytes_down += size_bytes

    @contextmanager
    def exchanging(self) -> Iterator[None]:
        """Count an exchange, without its wait for a worker to start."""
        started, waited, lost = perf_counter(), waited_s(), True
        try:
            yield
            lost = False
        finally:
            if not lost or self._keeps_lost:
                self._exchange_s += perf_counter() - started - (waited_s() - waited)

    def begin_exchanges_anew(self) -> None:
        """Forget earlier exchanges: what they brought is lost."""
        self._exchange_s = 0.0

    def finish(self, result: Result, decode_s: float) -> CallTimings:
        """Return the call's timings, with the worker's own from `result`.

        Args:
            result: the reply's message.
            decode_s: from the reply's last byte to the tensors on the caller's device.
        """
        worker = result.timings
        known_s = self._upload_s + self._pack_s + self._encode_s + self._exchange_s + decode_s
        return CallTimings(
            upload_s=self._upload_s,
            waited_s=max(0.0, perf_counter() - self._begun - known_s),
            pack_s=self._pack_s,
            encode_s=self._encode_s,
            exchange_s=self._exchange_s,
            decode_s=decode_s,
            worker_decode_s=worker.decode_s,
            queue_s=worker.queue_s,
            load_s=worker.load_s,
            compute_s=worker.compute_s,
            bytes_up=self._bytes_up,
            bytes_down=self._bytes_down,
            exchanges=self._exchanges,
        )
