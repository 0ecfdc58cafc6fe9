"""Forward calls as frames, and the replies that they must get."""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import torch
from tests.support.frames import forward_frame

from comfy_gpu_offload.io.frame import EncodedFrame
from comfy_gpu_offload.protocol.envelope import open_frame
from comfy_gpu_offload.transport.base import Check, Timeouts, Transport

TIMEOUTS = Timeouts(connect_s=60.0, exchange_s=60.0, silence_s=60.0)
_count = itertools.count()


class StopError(BaseException):
    """An interrupt that is no `Exception`, as ComfyUI's is not."""


@dataclass(frozen=True)
class Call:
    """A call that no other is like, and what it returns: float32 or uint8, one dimension."""

    frame: EncodedFrame
    expected: torch.Tensor

    def made(self, transport: Transport, timeouts: Timeouts = TIMEOUTS, check: Check | None = None) -> None:
        """Make it.

        Raises:
            AssertionError: the reply is another one.
            Whatever the transport raises.
        """
        self.verify(transport.exchange("forward", self.frame, timeouts, check))

    def verify(self, reply: memoryview) -> None:
        """Raise `AssertionError` unless this is the whole reply to this call, in memory that may be written."""
        assert not reply.readonly
        assert torch.equal(open_frame(reply).unpack(), self.expected)


class Calls:
    """Makes the calls of one client."""

    def __init__(self, client: str = "a-client") -> None:
        self._client = f"{client}-under-test"

    def echo(self, size_bytes: int = 400) -> Call:
        """Return a call whose tensor goes up and comes back: no codec makes it smaller, no other call has it."""
        number = next(_count)
        generator = torch.Generator().manual_seed(number)
        noise = torch.randint(0, 256, (size_bytes,), generator=generator, dtype=torch.uint8)
        return Call(self._frame(noise, "echo", number), noise)

    def first_byte(self, up_bytes: int) -> Call:
        """Return a call with a large request and a small reply."""
        big = self.echo(up_bytes)
        return Call(self._frame(big.expected, "first_byte", next(_count)), big.expected[:1])

    def repeated(self, down_bytes: int) -> Call:
        """Return a call with a small request and a large reply: a byte so many times."""
        number = next(_count)
        size = torch.tensor([down_bytes, number % 256])
        return Call(
            self._frame(size, "repeated", number), torch.full((down_bytes,), number % 256, dtype=torch.uint8)
        )

    def wait(self) -> Call:
        """Return a call of the model that computes until it is released."""
        number = next(_count)
        x = torch.full((100,), float(number))
        return Call(self._frame(x, "wait", number), x)

    def _frame(self, x: torch.Tensor, model: str, number: int) -> EncodedFrame:
        return forward_frame(x, model=model, request=f"request-{number:08}", client=self._client)


MODELS = {
    "first_byte": lambda x: x[:1],
    "repeated": lambda x: torch.full((int(x[0]),), int(x[1]), dtype=torch.uint8),
}
"""Functions that the worker's backend must have."""
