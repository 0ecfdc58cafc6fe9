"""A transport that mixes replies up, as two processes on one connection do."""

from __future__ import annotations

from collections.abc import Callable, Generator
from typing import Any

import torch

from comfy_gpu_offload import Session
from comfy_gpu_offload.client.weight_patches import WeightPatches
from comfy_gpu_offload.io.digests import digest
from comfy_gpu_offload.io.frame import EncodedFrame
from comfy_gpu_offload.protocol.envelope import open_frame
from comfy_gpu_offload.transport.base import Carrier, Check, Route, Timeouts, Transport


class Mixing:
    """Carries as `inner` does. Once `armed`, the next reply of each kind that came before is that earlier one.

    Attributes:
        mixed: the types of the messages that got another's reply.
    """

    def __init__(self, inner: Transport) -> None:
        self._inner = inner
        self.carries_cancel = inner.carries_cancel
        self.peer = inner.peer
        self.armed = False
        self.mixed: list[str] = []
        self._earlier: dict[str, list[bytes]] = {}

    @property
    def carrier(self) -> Carrier:
        return self._inner.carrier

    def exchange(
        self, route: Route, frame: EncodedFrame, timeouts: Timeouts, check: Check | None = None
    ) -> memoryview:
        def ask() -> list[bytes]:
            return [bytes(self._inner.exchange(route, frame, timeouts, check))]

        (reply,) = self._perhaps_another(frame, ask)
        return memoryview(bytearray(reply))

    def stream(
        self, route: Route, frame: EncodedFrame, timeouts: Timeouts, check: Check | None = None
    ) -> Generator[memoryview]:
        def ask() -> list[bytes]:
            return [bytes(reply) for reply in self._inner.stream(route, frame, timeouts, check)]

        for reply in self._perhaps_another(frame, ask):
            yield memoryview(bytearray(reply))

    def close(self) -> None:
        self._inner.close()

    def forked(self) -> None:
        self._inner.forked()

    def _perhaps_another(self, frame: EncodedFrame, ask: Callable[[], list[bytes]]) -> list[bytes]:
        kind = _kind_of(frame)
        true, earlier = ask(), self._earlier.get(kind)
        if self.armed and earlier is not None and kind not in self.mixed:
            self.mixed.append(kind)
            return earlier
        self._earlier[kind] = true
        return true


def _kind_of(frame: EncodedFrame) -> str:
    message: Any = open_frame(frame.joined()).message
    return f"{message.type} with a model" if message.type == "hello" and message.model is not None else message.type


def mix_replies_up(session: Session) -> Mixing:
    """Have the session's replies mixed up, once its carrier is armed."""
    mixing = Mixing(session._transport)
    session._transport = session._exchanges._transport = mixing
    return mixing


ALL_KINDS = ["define", "forward", "hello", "hello with a model", "probe", "sample", "store"]


def use_everything(session: Session, model: str, number: int, sampler: str = "echo") -> None:
    """Ask for one of everything, with values that depend on `number`, and hold what comes to what must."""
    assert session.models()
    session.probe(up_bytes=100, down_bytes=100 + number)
    remote = session.model(model)
    x = torch.full((2, 3), float(number))
    uploaded = torch.full((2000,), float(number))
    template = {"layer": [[0, "diff", [digest(uploaded), False], None, None]]}
    patches = WeightPatches(template, ((1.0, 1.0),), {digest(uploaded): uploaded})
    assert torch.equal(remote.patched(patches, (x,), {}), x * 2)
    fields = {"sampler": sampler, "scheduler": "simple", "seed": number, "steps": 2, "cfg": 1.0}
    latent, _ = remote.sample(fields, {"latent": x, "positive": [], "negative": []})
    assert torch.equal(latent, x + 2 * number)
