"""Peers of earlier releases: today's worker answers their requests, today's client understands their replies."""

from __future__ import annotations

import json
from collections.abc import Generator
from pathlib import Path
from typing import Any

import pytest
import torch
import xxhash
from tests.protocol.conversation import CONTEXT, GIVEN_UP, LATENTS, PROBE_BYTES, STEPS, converse
from tests.support.backend import FINGERPRINT, FunctionBackend

from comfy_gpu_offload.errors import ConnectionLostError
from comfy_gpu_offload.io.frame import PRELUDE, EncodedFrame, decode
from comfy_gpu_offload.io.tree import Tree
from comfy_gpu_offload.protocol.envelope import Envelope, open_frame
from comfy_gpu_offload.protocol.messages import Fault, FaultCode, Result
from comfy_gpu_offload.server.handler import Handler
from comfy_gpu_offload.transport.base import Check, Route, Timeouts

RECORDED = sorted(path for path in (Path(__file__).parent / "recorded").iterdir() if path.is_dir())


@pytest.fixture(params=RECORDED, ids=lambda path: path.name)
def recorded(request: pytest.FixtureRequest) -> Path:
    return request.param  # type: ignore[no-any-return]


def opened(path: Path) -> Envelope:
    return open_frame(bytearray(path.read_bytes()))


def replies_to(request: Path) -> list[Path]:
    stem = request.name.removesuffix(".request.bin")
    return sorted(request.parent.glob(f"{stem}.reply-*.bin"))


def ask(handler: Handler, backend: FunctionBackend, request: Path, wanted: int) -> list[EncodedFrame]:
    """Return the first `wanted` replies of today's worker to a recorded request."""
    frame = bytearray(request.read_bytes())
    if not wanted:  # the client gave the call up: what answers it comes after the cancel
        handler.submit(frame)
        assert backend.started.wait(60)
        return []
    if opened(request).message.type not in {"sample", "follow"}:  # type: ignore[attr-defined]
        return [handler.handle(frame)]
    stream = handler.stream(frame)
    replies = [next(stream) for _ in range(wanted)]
    stream.close()
    return replies


def test_todays_worker_answers_yesterdays_client(recorded: Path) -> None:
    backend = FunctionBackend()
    handler = Handler(backend)
    for request in sorted(recorded.glob("*.request.bin")):
        then = [opened(path) for path in replies_to(request)]
        replies = [frame.joined() for frame in ask(handler, backend, request, len(then))]
        assert_known_by(recorded, replies)
        assert_alike([open_frame(reply) for reply in replies][-1:], then[-1:])
    handler.close(10)
    assert_called_as_recorded(backend)


def assert_alike(now: list[Envelope], then: list[Envelope]) -> None:
    """Require the same kind of reply, with the same content where that does not depend on the worker's process."""
    for ours, theirs in zip(now, then, strict=True):
        assert type(ours.message) is type(theirs.message)
        assert ours.request == theirs.request
        if isinstance(ours.message, Fault) and isinstance(theirs.message, Fault):
            assert (ours.message.code, ours.message.missing) == (theirs.message.code, theirs.message.missing)
        elif isinstance(ours.message, Result) and isinstance(theirs.message, Result):
            assert ours.message.prediction == theirs.message.prediction
            assert_equal_trees(ours.unpack(), theirs.unpack())


def assert_equal_trees(ours: Tree, theirs: Tree) -> None:
    assert isinstance(ours, torch.Tensor)
    assert isinstance(theirs, torch.Tensor)
    assert ours.dtype == theirs.dtype
    assert torch.equal(ours, theirs)


def assert_called_as_recorded(backend: FunctionBackend) -> None:
    """Require that the models were given the tensors of the conversation."""
    doubled = [args[0] for name, args, kwargs in backend.calls if name == "double" and "latent" not in kwargs]
    assert len(doubled) == 2 * len(LATENTS)
    assert all(torch.equal(x, y) for x, y in zip(doubled, LATENTS + LATENTS, strict=True))
    assert all(torch.equal(kwargs["context"], CONTEXT) for _, _, kwargs in backend.calls if "context" in kwargs)
    (patched,) = [patches for patches in backend.patches if patches is not None]
    assert patched.strengths == ((0.5, 1.0),)


def assert_known_by(recorded: Path, frames: list[bytearray]) -> None:
    """Require that a peer of then knows every field that is sent to it: it refuses a frame with any other."""
    known = json.loads((recorded / "fields.json").read_text())
    for frame in frames:
        fields = decode(frame).message
        assert not unknown_in(fields, known[fields["type"]])


def unknown_in(fields: Any, known: dict[str, Any] | None) -> set[str]:
    """Return the names of fields that `known` lacks, at any depth."""
    if isinstance(fields, list | tuple):
        return set().union(*(unknown_in(field, known) for field in fields))
    if not isinstance(fields, dict) or known is None:
        return set()
    below = (unknown_in(value, known[name]) for name, value in fields.items() if name in known)
    return (fields.keys() - known.keys()).union(*below)


class YesterdaysWorker:
    """A transport to a worker of then: recorded replies, each under the name of the request that it answers."""

    carries_cancel = True
    peer = "yesterday"

    def __init__(self, recorded: Path) -> None:
        self._known = json.loads((recorded / "fields.json").read_text())
        self._refusal = (recorded / "unknown-field.reply.bin").read_bytes()
        self._left = sorted(recorded.glob("*.request.bin"))
        self.refused: list[str] = []

    def _replies(self, frame: EncodedFrame) -> list[memoryview] | None:
        """Return the replies to a request; none where the call was given up."""
        fields = decode(bytearray(frame.joined())).message
        kind = fields["type"]
        if unknown_in(fields, self._known[kind]):
            self.refused.append(kind)
            return [memoryview(bytearray(self._refusal))]
        request = next(path for path in self._left if path.name.split(".")[0].endswith(f"-{kind}"))
        self._left.remove(request)
        name = opened(request).request
        assert name is not None
        return [renamed(path.read_bytes(), name, fields["request"]) for path in replies_to(request)]

    def exchange(
        self, route: Route, frame: EncodedFrame, timeouts: Timeouts, check: Check | None = None
    ) -> memoryview:
        replies = self._replies(frame)
        while not replies:
            assert check is not None
            check()
        return replies[0]

    def stream(
        self, route: Route, frame: EncodedFrame, timeouts: Timeouts, check: Check | None = None
    ) -> Generator[memoryview]:
        yield from self._replies(frame) or ()
        raise ConnectionLostError("cut")

    def close(self) -> None:
        pass

    def forked(self) -> None:
        raise NotImplementedError

    def assert_done(self) -> None:
        assert not self._left


def renamed(frame: bytes, old: str, new: str) -> memoryview:
    """Return a recorded frame with another name of its request, byte for byte the same otherwise."""
    assert len(old) == len(new)
    body = frame[PRELUDE.size :].replace(old.encode(), new.encode())
    *fields, _ = PRELUDE.unpack_from(frame)
    return memoryview(bytearray(PRELUDE.pack(*fields, xxhash.xxh3_64(body).intdigest()) + body))


def test_todays_client_understands_yesterdays_worker(recorded: Path) -> None:
    worker = YesterdaysWorker(recorded)
    got = converse(worker)
    worker.assert_done()
    # One hello for each of the two sessions, which then speak as a peer of then does.
    assert worker.refused in ([], ["hello"] * 2)
    assert [entry.name for entry in got["models"][0]] == ["echo", "double", "wait"]
    assert got["probe"][0] >= 0
    assert (got["model"][0].fingerprint, got["model"][1]) == (FINGERPRINT, {"config": {"in_channels": 4}})
    doubled = [latent * 2 for latent in LATENTS]
    for results in (got["forward"], got["predicted"]):
        assert all(torch.equal(x, y) for x, y in zip(results, doubled, strict=True))
    assert torch.equal(got["patched"][0], LATENTS[0])
    assert [step for step, _, _ in got["steps"]] == [1, 2, 3, 4]
    assert got["steps"][0][2] == b"picture 1"


def test_a_peer_of_then_refuses_what_it_does_not_know(recorded: Path) -> None:
    refusal = opened(recorded / "unknown-field.reply.bin").message
    assert isinstance(refusal, Fault)
    assert refusal.code is FaultCode.BAD_MESSAGE


def test_the_conversation_uses_every_message_of_a_client(recorded: Path) -> None:
    sent = {opened(path).message.type for path in recorded.glob("*.request.bin")}  # type: ignore[attr-defined]
    assert sent == {"hello", "probe", "forward", "sample", "follow", "cancel", "store", "define"}
    assert (PROBE_BYTES, STEPS, GIVEN_UP) == (1000, 4, "wait")
