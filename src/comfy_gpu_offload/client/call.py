"""What a session knows of a call that is under way: how it is sent next, and what it took so far."""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from time import perf_counter

import torch

from ..errors import UnsupportedValueError
from ..io.buffers import aligned
from ..io.strides import moved
from ..io.tree import PackedTree, Tree, map_tensors
from ..protocol.envelope import Envelope
from ..protocol.messages import FaultCode, Forward, Result, SampleJob
from ..transport.startup_waits import waited_s
from .encoding.policy import Encoding
from .timings import CallTimings
from .weight_patches import HookPatches, PatchUploads, WeightPatches


@dataclass
class Call:
    """A forward call or a whole run under way; times and bytes grow with each attempt.

    Attributes:
        host: its tensors on the CPU.
        device: where the result's tensors are wanted.
        encoding: how its tensors are encoded, both ways.
        begun: when its caller began to wait for it, by `perf_counter`.
    """

    message: Forward | SampleJob
    packed: PackedTree
    host: tuple[torch.Tensor, ...]
    device: torch.device
    encoding: Encoding
    patches: WeightPatches | None = None
    hooks: HookPatches | None = None
    begun: float = field(default_factory=perf_counter)
    upload_s: float = 0.0
    pack_s: float = 0.0
    encode_s: float = 0.0
    exchange_s: float = 0.0
    bytes_up: int = 0
    bytes_down: int = 0
    exchanges: int = 0

    @property
    def sent(self) -> Forward | SampleJob:
        """Return the message as it is sent next, with what it says about prediction."""
        prediction = self.encoding.prediction
        return self.message if prediction is None else self.message.model_copy(update={"prediction": prediction})

    @property
    def named_patches(self) -> tuple[WeightPatches, ...]:
        """What the worker must have been told of before the call."""
        named = (self.patches, None if self.hooks is None else self.hooks.patches)
        return tuple(patches for patches in named if patches is not None)

    def send_plainly(self, code: FaultCode) -> None:
        """Send the first tensor unpredicted in the next attempt, because of the fault `code`."""
        self.encoding.send_plainly(code)
        if code is FaultCode.WRONG_PREDICTION:
            # The worker still has the reply that could not be read, under the old name.
            self.message = self.message.model_copy(update={"request": secrets.token_hex(16)})

    @contextmanager
    def uploading(self, uploads: PatchUploads) -> Iterator[None]:
        """Count what the block uploads ahead of this call."""
        before, started = uploads.bytes_up, perf_counter()
        yield
        self.upload_s += perf_counter() - started
        self.bytes_up += uploads.bytes_up - before

    @contextmanager
    def exchanging(self) -> Iterator[None]:
        """Count an exchange, without its wait for a worker to start; a call whose connection was lost not at all.

        A run goes on meanwhile, and is followed over further connections.
        """
        started, waited, lost = perf_counter(), waited_s(), True
        try:
            yield
            lost = False
        finally:
            if not lost or isinstance(self.message, SampleJob):
                self.exchange_s += perf_counter() - started - (waited_s() - waited)

    def value_of(self, reply: Envelope) -> Tree:
        """The tree of its reply, with the tensors where they are wanted."""
        return map_tensors(reply.unpack(), lambda tensor: aligned(moved(tensor, self.device)))

    def finish(self, result: Result, decode_s: float) -> CallTimings:
        worker = result.timings
        known = (self.upload_s, self.pack_s, self.encode_s, self.exchange_s, decode_s)
        return CallTimings(
            upload_s=self.upload_s,
            waited_s=max(0.0, perf_counter() - self.begun - sum(known)),
            pack_s=self.pack_s,
            encode_s=self.encode_s,
            exchange_s=self.exchange_s,
            decode_s=decode_s,
            worker_decode_s=worker.decode_s,
            queue_s=worker.queue_s,
            load_s=worker.load_s,
            compute_s=worker.compute_s,
            bytes_up=self.bytes_up,
            bytes_down=self.bytes_down,
            exchanges=self.exchanges,
        )


def refuse_gradients(packed: PackedTree) -> None:
    """Raises UnsupportedValueError where a result would be expected to carry a gradient back."""
    if not torch.is_grad_enabled():
        return
    for path, tensor in zip(packed.paths, packed.tensors, strict=True):
        if tensor.requires_grad:
            raise UnsupportedValueError(
                path, "tensor that requires a gradient", "gradients do not come back; use torch.no_grad()"
            )
