"""One conversation between a client and a worker that uses every message, and how it is recorded.

    python -m tests.protocol.conversation FOLDER

writes the conversation of this release into FOLDER: each request and its replies as the frames that were sent, and
`fields.json` with the names of all fields that this release knows. `test_yesterday.py` plays such folders.
"""

from __future__ import annotations

import json
import sys
import threading
from collections.abc import Generator
from pathlib import Path
from typing import Any

import torch
from tests.support.backend import FINGERPRINT, FunctionBackend

from comfy_gpu_offload.client.model_call import ModelCall, ModelRun
from comfy_gpu_offload.client.retry import RetryPolicy
from comfy_gpu_offload.client.session import Session, SessionOptions
from comfy_gpu_offload.client.weight_patches import WeightPatches
from comfy_gpu_offload.errors import ConnectionLostError
from comfy_gpu_offload.io import codecs
from comfy_gpu_offload.io.digests import digest
from comfy_gpu_offload.io.frame import EncodedFrame, decode, encode
from comfy_gpu_offload.protocol import messages
from comfy_gpu_offload.protocol.messages import ModelRef
from comfy_gpu_offload.server.handler import Handler
from comfy_gpu_offload.transport.base import Check, Route, Timeouts, Transport
from comfy_gpu_offload.transport.loopback import LoopbackTransport

PROBE_BYTES = 1000
STEPS = 4
# The stream of a run is cut after so many frames, and taken up again with `follow`.
CUT_AFTER = 2
# The kinds that have no reply in a recording: the client gave the call up before.
GIVEN_UP = "wait"

_generator = torch.Generator().manual_seed(0)
LATENTS = [torch.randn(1, 4, 16, 16, generator=_generator).to(torch.bfloat16) for _ in range(4)]
CONTEXT = torch.randn(1, 77, 32, generator=_generator)
LORA = torch.randn(16, 16, generator=_generator)


class GivenUpError(Exception):
    """The user interrupted a call."""


def converse(transport: Transport) -> dict[str, list[Any]]:
    """Use every message once at least; return what the client got, by the method that was called."""
    retry = RetryPolicy(total_s=10.0, first_s=0.001)
    with Session(transport, SessionOptions(codec=codecs.RAW, retry=retry)) as session:
        got = {"models": [session.models()], "probe": [session.probe(PROBE_BYTES, PROBE_BYTES)]}
        model = session.model("double")
        got["model"] = [model.description, model.details]
        got["forward"] = [forward(session, latent, "double") for latent in LATENTS]
        got["patched"] = [forward(session, LATENTS[0], "echo", patches())]
        steps: list[tuple[int, int, bytes | None]] = []
        fields = {"sampler": "double", "scheduler": "normal", "seed": 3, "steps": STEPS, "cfg": 1.0}
        job = {"latent": LATENTS[0].float(), "positive": CONTEXT, "negative": CONTEXT}
        run = ModelRun(ModelRef(name="echo"), FINGERPRINT, fields, job, lambda *step: steps.append(step))
        result, _ = session.sample(run)
        got["sample"], got["steps"] = [result], list(steps)
        give_up(session)
    with Session(transport, SessionOptions(codec=codecs.AUTO, predict=True, retry=retry)) as session:
        got["predicted"] = [forward(session, latent, "double") for latent in LATENTS]
    return got


def forward(session: Session, latent: torch.Tensor, name: str, patches: WeightPatches | None = None) -> Any:
    """Return the model's answer to one call."""
    call = ModelCall(ModelRef(name=name), FINGERPRINT, (latent,), {"context": CONTEXT}, patches=patches)
    return session.forward(call)[0]


def patches() -> WeightPatches:
    """Return a patch of one weight, too large to be sent with its template."""
    template = {"weight": [[0, "diff", [digest(LORA)], None, None]]}
    return WeightPatches(template, ((0.5, 1.0),), {digest(LORA): LORA})


def give_up(session: Session) -> None:
    """Interrupt a call, so that the client cancels it."""
    looks = 0

    def check() -> None:
        nonlocal looks
        looks += 1
        if looks > 2:
            raise GivenUpError

    try:
        session.forward(ModelCall(ModelRef(name=GIVEN_UP), FINGERPRINT, (LATENTS[0],), {}), check)
    except GivenUpError:
        for thread in threading.enumerate():  # the worker is told on a thread of its own
            if thread.name == "comfy-gpu-offload-cancel":
                thread.join()


class Recorder:
    """A transport that writes down what passes, and cuts the first stream."""

    carries_cancel = True
    peer = ""

    def __init__(self, transport: Transport, folder: Path) -> None:
        self._transport, self._folder = transport, folder
        self._count = 0
        self._has_cut = False

    def _begun(self, frame: EncodedFrame) -> str:
        data = frame.joined()
        self._count += 1
        stem = f"{self._count:02}-{decode(bytearray(data)).message['type']}"
        (self._folder / f"{stem}.request.bin").write_bytes(data)
        return stem

    def exchange(
        self, route: Route, frame: EncodedFrame, timeouts: Timeouts, check: Check | None = None
    ) -> memoryview:
        stem = self._begun(frame)
        reply = self._transport.exchange(route, frame, timeouts, check)
        (self._folder / f"{stem}.reply-1.bin").write_bytes(reply)
        return reply

    def stream(
        self, route: Route, frame: EncodedFrame, timeouts: Timeouts, check: Check | None = None
    ) -> Generator[memoryview]:
        stem = self._begun(frame)
        for number, reply in enumerate(self._transport.stream(route, frame, timeouts, check), start=1):
            (self._folder / f"{stem}.reply-{number}.bin").write_bytes(reply)
            yield reply
            if number == CUT_AFTER and not self._has_cut:
                self._has_cut = True
                raise ConnectionLostError("cut")

    def close(self) -> None:
        self._transport.close()

    def forked(self) -> None:
        raise NotImplementedError


def fields_known() -> dict[str, Any]:
    """Return the names of every message's fields, those of its parts below them."""
    return {kind: _fields(model.model_json_schema()) for kind, model in sorted(messages.KINDS.items())}


def _fields(schema: dict[str, Any]) -> dict[str, Any]:
    parts = schema.get("$defs", {})

    def below(field: Any) -> dict[str, Any] | None:
        if isinstance(field, dict):
            if "$ref" in field:
                return of(parts[field["$ref"].rsplit("/", 1)[1]])
            return next((found for value in field.values() if (found := below(value)) is not None), None)
        if isinstance(field, list):
            return next((found for value in field if (found := below(value)) is not None), None)
        return None

    def of(part: dict[str, Any]) -> dict[str, Any] | None:
        properties = part.get("properties")
        return None if properties is None else {name: below(field) for name, field in properties.items()}

    return of(schema) or {}


def refusal_of_an_unknown_field(handler: Handler) -> bytearray:
    """Return the reply to a `hello` with a field that this release does not know."""
    fields = {"type": "hello", "client": "c" * 32, "package": "1", "torch": "2", "codecs": ["raw"]}
    return handler.handle(encode({**fields, "of_tomorrow": True}).joined()).joined()


def main(folder: Path) -> None:
    """Write this release's conversation into `folder`."""
    folder.mkdir(parents=True)
    backend = FunctionBackend()
    handler = Handler(backend)
    converse(Recorder(LoopbackTransport(handler), folder))
    backend.release.set()
    (folder / "unknown-field.reply.bin").write_bytes(refusal_of_an_unknown_field(handler))
    (folder / "fields.json").write_text(json.dumps(fields_known(), indent=1) + "\n")
    handler.close(10)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
