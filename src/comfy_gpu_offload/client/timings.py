"""The times and bytes of a call."""

from __future__ import annotations

from dataclasses import dataclass, fields


@dataclass(frozen=True)
class CallTimings:
    """The times, in seconds, and bytes of one call. The worker measures its own.

    Attributes:
        pack_s: finding the arguments' tensors, moving them to the CPU, hashing those that recur.
        upload_s: uploading patches before the call.
        encode_s, decode_s: from tensors to the frame, and from the reply's frame to tensors on the caller's device.
        exchange_s: of the exchange that brought the result: from sending to the reply's last byte, the worker's
            times included.
        waited_s: waiting for a worker to start or to come back, exchanges that were lost included.
        worker_decode_s, queue_s, load_s, compute_s: at the worker: reading the frame, waiting for the device,
            preparing (above all loading or moving weights), computing the model.
        bytes_up, bytes_down: bytes of whole frames.
        exchanges: 1, and 1 more for each resend.
    """

    pack_s: float = 0.0
    upload_s: float = 0.0
    encode_s: float = 0.0
    exchange_s: float = 0.0
    decode_s: float = 0.0
    waited_s: float = 0.0
    worker_decode_s: float = 0.0
    queue_s: float = 0.0
    load_s: float = 0.0
    compute_s: float = 0.0
    bytes_up: int = 0
    bytes_down: int = 0
    exchanges: int = 0

    @property
    def total_s(self) -> float:
        """The seconds of the whole call, as the caller waited for it."""
        coding_s = self.pack_s + self.encode_s + self.decode_s
        return coding_s + self.upload_s + self.waited_s + self.exchange_s

    @property
    def transfer_s(self) -> float:
        """The seconds of moving the tensors: coding at both ends, and the network."""
        coding_s = self.pack_s + self.encode_s + self.worker_decode_s + self.decode_s
        return coding_s + self.upload_s + self.wire_s

    @property
    def wire_s(self) -> float:
        """The seconds of the exchange beyond the worker's own work."""
        worker = self.worker_decode_s + self.queue_s + self.load_s + self.compute_s
        return max(0.0, self.exchange_s - worker)

    def __add__(self, other: CallTimings) -> CallTimings:
        sums = {field.name: getattr(self, field.name) + getattr(other, field.name) for field in fields(self)}
        return CallTimings(**sums)

    def summary(self) -> str:
        """Return one line for the log, in milliseconds and KB (1000 bytes)."""
        return (
            f"up {self.bytes_up / 1e3:.1f} KB, down {self.bytes_down / 1e3:.1f} KB; "
            f"pack {self.pack_s * 1e3:.2f}, encode {self.encode_s * 1e3:.2f}, wire {self.wire_s * 1e3:.2f}, "
            f"queue {self.queue_s * 1e3:.2f}, load {self.load_s * 1e3:.2f}, "
            f"compute {self.compute_s * 1e3:.2f}, decode {self.decode_s * 1e3:.2f} ms"
        )
