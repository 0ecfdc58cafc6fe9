"""Results that stay at the worker: named in later calls, fetched when they are read, computed again when lost."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from tests.support.backend import FunctionBackend

from comfy_gpu_offload.client.model_call import ModelRun
from comfy_gpu_offload.client.options import SessionOptions
from comfy_gpu_offload.client.remote_model import RemoteModel
from comfy_gpu_offload.client.session import Session
from comfy_gpu_offload.io import codecs
from comfy_gpu_offload.io.frame import EncodedFrame
from comfy_gpu_offload.io.kept.kept_tensor import KeptTensor
from comfy_gpu_offload.server.handler import Handler, HandlerOptions
from comfy_gpu_offload.transport.loopback import LoopbackTransport

CPU = torch.device("cpu")
X = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(0))
MEGABYTE = 1024**2


def encoded(tokens: list[int]) -> Any:
    generator = torch.Generator().manual_seed(sum(tokens))
    return torch.randn(1, 64, 128, generator=generator), torch.randn(1, 32, generator=generator), {"ids": tokens}


class Encoder(FunctionBackend):
    """An encoder, and a model that uses its whole context."""

    def __init__(self) -> None:
        super().__init__(
            **{
                "clip": lambda x: x,
                "clip.encode": encoded,
                "unet": lambda x, context, **_: x * 2 + context.float().sum(),
            }
        )

    def called(self, name: str) -> int:
        return sum(called == name for called, *_ in self.calls)


class Counted(LoopbackTransport):
    """A transport that counts bytes, to a worker that may be replaced by another."""

    def __init__(self, backend: FunctionBackend, store_bytes: int = 64 * MEGABYTE) -> None:
        self.options = HandlerOptions(store_bytes=store_bytes)
        self.backend = backend
        super().__init__(Handler(backend, self.options))
        self.up = self.down = 0

    def restart(self) -> None:
        self._handler = Handler(self.backend, self.options)

    def exchange(self, route: Any, frame: EncodedFrame, *rest: Any, **named: Any) -> memoryview:
        self.up += frame.size_bytes
        reply = super().exchange(route, frame, *rest, **named)
        self.down += len(reply)
        return reply


@pytest.fixture
def backend() -> Encoder:
    return Encoder()


@pytest.fixture
def transport(backend: Encoder) -> Counted:
    return Counted(backend)


@pytest.fixture
def session(transport: Counted) -> Iterator[Session]:
    with Session(transport) as opened:
        yield opened


def encode(session: Session, tokens: list[int], clip: RemoteModel | None = None) -> Any:
    module = clip or session.model("clip")
    return module.patched(None, (tokens,), {}, method="encode", device=CPU, keep_result="digests")


def same(one: torch.Tensor, other: torch.Tensor) -> bool:
    return one.dtype == other.dtype and torch.equal(one, other)


def test_a_step_with_what_the_worker_encoded_sends_none_of_it(session: Session, transport: Counted) -> None:
    unet, clip = session.model("unet"), session.model("clip")
    transport.up = transport.down = 0
    (positive, pooled, extra), (negative, *_) = encode(session, [1, 2], clip), encode(session, [3], clip)
    assert extra == {"ids": [1, 2]}
    assert type(pooled) is torch.Tensor
    assert same(pooled, encoded([1, 2])[1])
    context = torch.cat([positive.repeat(2, 1, 1).narrow(0, 0, 1), negative]).to(torch.bfloat16)
    for _ in range(3):
        result = unet(X, context=context)
    expected = torch.cat([encoded([1, 2])[0], encoded([3])[0]]).to(torch.bfloat16)
    assert torch.equal(result, X * 2 + expected.float().sum())
    assert transport.up < 3 * X.nbytes + 8000
    assert transport.down < 3 * X.nbytes + 8000


READS: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "added": lambda cond: cond + 1,
    "averaged": lambda cond: cond * 0.3 + torch.zeros_like(cond) * 0.7,
    "numpy": lambda cond: torch.from_numpy(cond.numpy()),
    "half": lambda cond: cond.to(torch.float16) + 0,
}


@pytest.mark.parametrize("name", READS)
def test_what_reads_it_gets_the_same_data_and_nothing_is_computed_again(
    session: Session, backend: Encoder, name: str
) -> None:
    cond, *_ = encode(session, [1, 2])
    assert same(READS[name](cond), READS[name](encoded([1, 2])[0]))
    assert backend.called("clip.encode") == 1


def test_the_same_call_again_is_not_computed_by_whoever_asks(backend: Encoder, transport: Counted) -> None:
    for tokens, computed in (([1, 2], 1), ([1, 2], 1), ([1, 3], 2)):
        with Session(transport) as session:
            cond, pooled, extra = encode(session, tokens)
        assert backend.called("clip.encode") == computed
        assert extra == {"ids": tokens}
        assert same(pooled, encoded(tokens)[1])
    with Session(transport) as session:
        cond, *_ = encode(session, [1, 2])
        assert same(cond + 0, encoded([1, 2])[0])
    assert backend.called("clip.encode") == 2


def test_a_method_that_is_not_repeatable_is_computed_each_time_and_sent(session: Session, backend: Encoder) -> None:
    backend.functions["clip.draw"] = backend.functions["clip.encode"]
    clip = session.model("clip")
    for _ in range(2):
        cond, *_ = clip.patched(None, ([1],), {}, method="draw", device=CPU, keep_result="digests")
        assert type(cond) is torch.Tensor
    assert backend.called("clip.draw") == 2


def test_a_worker_that_was_restarted_computes_it_again(
    session: Session, backend: Encoder, transport: Counted
) -> None:
    unet = session.model("unet")
    cond, *_ = encode(session, [1, 2])
    context = cond.to(torch.bfloat16)
    unet(X, context=context)
    transport.restart()
    transport.up = transport.down = 0
    for _ in range(2):
        result = unet(X, context=cond.to(torch.bfloat16))
        assert torch.equal(result, X * 2 + encoded([1, 2])[0].bfloat16().float().sum())
    assert backend.called("clip.encode") == 2
    assert transport.up < 3 * X.nbytes + 8000
    assert same(cond + 0, encoded([1, 2])[0])
    transport.restart()
    assert torch.equal(unet(X, context=context), result)


@pytest.mark.parametrize("store_bytes", [20_000, 40_000, 70_000])
def test_a_worker_without_room_is_sent_the_data(backend: Encoder, store_bytes: int) -> None:
    expected = torch.cat([encoded([1, 2])[0], encoded([3])[0]]).to(torch.bfloat16)
    with Session(Counted(backend, store_bytes)) as session:
        unet = session.model("unet")
        (positive, *_), (negative, *_) = encode(session, [1, 2]), encode(session, [3])
        for _ in range(6):
            result = unet(X, context=torch.cat([positive, negative]).to(torch.bfloat16))
            assert torch.equal(result, X * 2 + expected.float().sum())
        assert same(positive + 0, encoded([1, 2])[0])
    # What is lost again and again is not computed for each step.
    assert backend.called("clip.encode") <= 8


def test_a_worker_that_computes_other_bits_is_sent_what_came_first_from_it(
    session: Session, backend: Encoder, transport: Counted
) -> None:
    unet = session.model("unet")
    cond, *_ = encode(session, [1, 2])
    backend.functions["clip.encode"] = lambda tokens: (encoded(tokens)[0] + 1e-6, *encoded(tokens)[1:])
    transport.restart()
    results = [unet(X, context=cond) for _ in range(2)]
    assert torch.equal(results[0], X * 2 + (encoded([1, 2])[0] + 1e-6).sum())
    assert torch.equal(results[0], results[1])


def test_a_module_at_another_worker_is_sent_the_data(backend: Encoder, session: Session) -> None:
    cond, *_ = encode(session, [1, 2])
    with Session(Counted(Encoder())) as other:
        result = other.model("unet")(X, context=cond.to(torch.bfloat16))
    assert torch.equal(result, X * 2 + encoded([1, 2])[0].bfloat16().float().sum())
    assert backend.called("clip.encode") == 1


def test_a_changed_tensor_is_sent_as_it_is(session: Session) -> None:
    cond, *_ = encode(session, [1, 2])
    half = cond.to(torch.bfloat16)
    cond *= 2
    unet = session.model("unet")
    expected = encoded([1, 2])[0]
    assert torch.equal(unet(X, context=cond), X * 2 + (expected * 2).sum())
    assert torch.equal(unet(X, context=half), X * 2 + expected.bfloat16().float().sum())


def test_a_run_sends_none_of_it(session: Session, backend: Encoder, transport: Counted) -> None:
    backend.functions["add"] = lambda latent: latent
    cond, *_ = encode(session, [1, 2])
    model = session.model("unet")
    fields = {"sampler": "add", "scheduler": "normal", "seed": 1, "steps": 2, "cfg": 1.0}
    job = {"latent": X, "positive": [[cond, {}]], "negative": [[torch.cat([cond, cond[:, :2]], 1), {}]]}
    frames: list[int] = []
    stream = transport.stream

    def counted(route: Any, frame: EncodedFrame, *rest: Any) -> Any:
        frames.append(frame.size_bytes)
        return stream(route, frame, *rest)

    transport.stream = counted  # type: ignore[method-assign]
    for _ in range(2):
        run = ModelRun(
            model.description.ref, model.description.fingerprint, fields, job, lambda *_: None, CPU, None
        )
        session.sample(run)
        given = backend.calls[-1][2]
        assert same(given["positive"][0][0], encoded([1, 2])[0])
        expected = encoded([1, 2])[0]
        assert same(given["negative"][0][0], torch.cat([expected, expected[:, :2]], 1))
        transport.restart()
    assert max(frames) < X.nbytes + 4000


def test_an_older_worker_sends_the_data(backend: Encoder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("comfy_gpu_offload.server.answers.hello.CAPABILITIES", ("strides", "modules"))
    with Session(Counted(backend)) as session:
        cond, *_ = encode(session, [1, 2])
        assert type(cond) is torch.Tensor
        assert same(cond, encoded([1, 2])[0])


def test_data_is_exact_whatever_codec_latents_have(transport: Counted) -> None:
    with Session(transport, SessionOptions(codec=codecs.named("int8-block"))) as session:
        cond, pooled, _ = encode(session, [1, 2])
        assert isinstance(cond, KeptTensor)
        assert same(cond + 0, encoded([1, 2])[0])
        assert same(pooled, encoded([1, 2])[1])


def test_small_results_come_with_their_data(session: Session) -> None:
    session.model("clip")
    found = encode(session, [])
    assert isinstance(found[0], KeptTensor)
    assert not isinstance(found[1], KeptTensor)


def sampled(session: Session, latent: torch.Tensor) -> torch.Tensor:
    model = session.model("unet")
    fields = {"sampler": "add", "scheduler": "normal", "seed": 1, "steps": 2, "cfg": 1.0}
    job = {"latent": latent, "positive": [], "negative": []}
    described = model.description
    value, _ = session.sample(
        ModelRun(described.ref, described.fingerprint, fields, job, lambda *_: None, CPU, None)
    )
    assert isinstance(value, torch.Tensor)
    return value


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("lost", [False, True])
def test_the_end_of_a_run_does_not_go_up_again(
    session: Session, backend: Encoder, transport: Counted, dtype: torch.dtype, lost: bool
) -> None:
    backend.functions |= {"add": lambda latent: latent, "clip.decode": lambda x: x.float() + 1}
    vae, large = session.model("clip"), torch.randn(1, 4, 64, 64)
    for number in range(4):
        samples = sampled(session, large + number)
        made = samples.to(dtype)
        session.note_cast(samples, made)
        if lost:
            transport.restart()
        transport.up = 0
        value = vae.patched(None, (made,), {}, method="decode", device=CPU)
        assert same(value, (large + number + 1 + 1).to(dtype).float() + 1)
        assert (transport.up < 2000) is not lost


def test_a_latent_that_was_changed_goes_up(session: Session, backend: Encoder) -> None:
    backend.functions |= {"add": lambda latent: latent, "clip.decode": lambda x: x.float() + 1}
    vae = session.model("clip")
    samples = sampled(session, X)
    made = samples.to(torch.bfloat16)
    session.note_cast(samples, made)
    made.mul_(2)
    assert same(
        vae.patched(None, (made,), {}, method="decode", device=CPU), ((X + 1 + 1).bfloat16() * 2).float() + 1
    )


def test_a_run_begins_with_what_was_encoded_at_the_worker(
    session: Session, backend: Encoder, transport: Counted
) -> None:
    backend.functions |= {"add": lambda latent: latent, "clip.encode_picture": lambda x: x.bfloat16() * 3}
    vae, large = session.model("clip"), torch.randn(1, 4, 64, 64)
    for number in range(4):
        value = vae.patched(None, (large + number,), {}, method="encode_picture", device=CPU, keep_result="data")
        latent = value.float()
        session.note_cast(value, latent)
        frames: list[int] = []
        stream = transport.stream

        def counted(route: Any, frame: EncodedFrame, *rest: Any, stream: Any = stream) -> Any:
            frames.append(frame.size_bytes)  # noqa: B023
            return stream(route, frame, *rest)

        transport.stream = counted  # type: ignore[method-assign]
        assert same(sampled(session, latent), latent + 1 + 1)
        transport.stream = stream  # type: ignore[method-assign]
        assert frames[0] < 3000


def test_a_queue_whose_workers_take_turns_sends_the_data(transport: Counted) -> None:
    transport.carries_cancel = False
    with Session(transport) as session:
        cond, *_ = encode(session, [1, 2])
        assert type(cond) is torch.Tensor
