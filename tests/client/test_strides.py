"""Inputs and outputs of a remote model have the strides of a local one's."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from tests.support.backend import FunctionBackend
from tests.support.frames import forward_frame
from tests.support.worker import ThreadWorker

from comfy_gpu_offload import Session, connect
from comfy_gpu_offload.client.weight_patches import WeightPatches
from comfy_gpu_offload.errors import RemoteWeightsError, UnsupportedValueError
from comfy_gpu_offload.io.digests import digest
from comfy_gpu_offload.io.strides import copied
from comfy_gpu_offload.server.handler import Handler
from comfy_gpu_offload.transport.loopback import LoopbackTransport

SHAPE = (2, 16, 32, 32)


def latent(seed: int) -> torch.Tensor:
    plain = torch.randn(SHAPE, generator=torch.Generator().manual_seed(seed)).bfloat16()
    return plain.to(memory_format=torch.channels_last)


VIEWS = {
    "channels last": latent(1),
    "one channel, channels last": torch.randn(1, 1, 8, 8).as_strided((1, 1, 8, 8), (64, 1, 8, 1)),
    "transposed": torch.randn(3, 4, 50).transpose(0, 2),
    "a slice": torch.randn(2, 8, 16, 16)[:, :4],
    "a slice, channels last": torch.randn(2, 8, 16, 16).to(memory_format=torch.channels_last)[:, 1:5],
    "expanded": torch.randn(1, 77, 64).expand(2, 77, 64),
    "an expanded timestep": torch.tensor(7.0).expand(4),
    "overlapping": torch.randn(40).unfold(0, 8, 2),
}


@pytest.fixture(params=["none", "planes", "auto"])
def coded(request: pytest.FixtureRequest, worker: ThreadWorker) -> Iterator[Session]:
    with connect(worker.url, compression=request.param, retry_s=60) as made:
        yield made


@pytest.mark.parametrize("name", VIEWS)
def test_arguments_and_results_keep_them(coded: Session, backend: FunctionBackend, name: str) -> None:
    seen: list[tuple[int, ...]] = []

    def note(x: torch.Tensor, *, context: torch.Tensor) -> torch.Tensor:
        seen.extend((x.stride(), context.stride()))
        return x

    backend.functions["note"] = note
    view = VIEWS[name]
    model = coded.model("note")
    for _ in range(4):  # from the second call on it goes by its digest
        result = model(view, context=copied(view))
        assert torch.equal(result, view)
        assert result.stride() == view.stride()
    assert seen == [view.stride()] * 8


def test_one_content_in_two_orders_is_given_in_the_order_asked_for(
    session: Session, backend: FunctionBackend
) -> None:
    seen: list[tuple[int, ...]] = []
    backend.functions["note"] = lambda x, c: seen.append(c.stride()) or x
    model = session.model("note")
    plain = torch.randn(2, 8, 16, 16)
    ordered = plain.to(memory_format=torch.channels_last)
    for context in (plain, ordered, plain.clone(), ordered.clone(), plain, ordered):
        model(torch.zeros(2), context)
    assert seen == [plain.stride(), ordered.stride()] * 3


def test_a_predicted_run_keeps_them_both_ways(backend: FunctionBackend, worker: ThreadWorker) -> None:
    strides: list[tuple[int, ...]] = []

    def velocity(x: torch.Tensor) -> torch.Tensor:
        strides.append(x.stride())
        return x * 0.5

    backend.functions["velocity"] = velocity
    with connect(worker.url, compression="planes") as session:
        model = session.model("velocity")
        x = latent(3)
        for _ in range(8):
            out = model(x)
            assert out.stride() == x.stride()
            assert torch.equal(out, x * 0.5)
            x = x - 0.1 * out
        sent = [timings.bytes_up for timings in model.timings]
    assert strides == [x.stride()] * 8
    assert min(sent[2:]) < sent[0] / 2, "nothing was predicted"


def test_a_whole_run_keeps_them(session: Session, backend: FunctionBackend) -> None:
    given = {"latent": latent(4).float(), "positive": VIEWS["expanded"], "negative": VIEWS["transposed"]}
    backend.functions["step"] = lambda x: x * 0.5
    fields = {"sampler": "step", "scheduler": "normal", "seed": 1, "steps": 2, "cfg": 1.0}
    result, _ = session.model("echo").sample(fields, given)
    seen = {name: tensor.stride() for name, tensor in backend.calls[-1][2].items()}
    assert seen == {name: tensor.stride() for name, tensor in given.items()}
    assert result.stride() == given["latent"].stride()


@pytest.mark.parametrize("size", [64, 3000])
def test_uploaded_weights_keep_them(worker: ThreadWorker, backend: FunctionBackend, size: int) -> None:
    weight = torch.randn(size, 500).t()
    held = {digest(weight): weight}
    patches = WeightPatches({"keys": list(held)}, (), held)
    with connect(worker.url) as session:
        session.model("echo").patched(patches, (torch.ones(1),), {})
    (arrived,) = backend.patches[-1].tensors.values()  # type: ignore[union-attr]
    assert torch.equal(arrived, weight)
    assert arrived.stride() == weight.stride()


class Older(LoopbackTransport):
    """A worker of the release before: it says nothing of strides, and refuses a frame with any."""

    def __init__(self, handler: Handler) -> None:
        super().__init__(handler)
        self.frames: list[bytes] = []

    def exchange(self, route: Any, frame: Any, *further: Any) -> Any:
        self.frames.append(bytes(frame.joined()))
        return super().exchange(route, frame, *further)


@pytest.fixture
def older(backend: FunctionBackend, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[Session, Older]]:
    monkeypatch.setattr("comfy_gpu_offload.server.answers.hello.CAPABILITIES", ("predicted",))
    handler = Handler(backend)
    link = Older(handler)
    with Session(link) as session:
        yield session, link
    handler.close()


def test_an_older_worker_is_sent_nothing_that_it_does_not_know(
    older: tuple[Session, Older], backend: FunctionBackend
) -> None:
    session, link = older
    backend.functions["last"] = lambda x: x.to(memory_format=torch.channels_last)
    model = session.model("last")
    result = model(torch.randn(4, 8, 8, 8)[:1, :1])
    assert b"strides" not in link.frames[-1]
    assert result.is_contiguous()
    with pytest.raises(UnsupportedValueError, match=r"args\[0\] .* lacks the capability 'strides'"):
        model(latent(5))


def test_an_older_client_is_answered_with_nothing_that_it_does_not_know(backend: FunctionBackend) -> None:
    handler = Handler(backend)
    backend.functions["last"] = lambda x: x.to(memory_format=torch.channels_last)
    reply = bytes(handler.handle(forward_frame(torch.randn(2, 4, 8, 8), model="last").joined()).joined())
    assert b"strides" not in reply
    handler.close()


@pytest.mark.parametrize("held", [False, True], ids=["itself", "in another module"])
@pytest.mark.parametrize("layout", [torch.channels_last, torch.channels_last_3d], ids=str)
def test_another_memory_format_of_the_weights_is_refused_by_name(
    session: Session, layout: torch.memory_format, held: bool
) -> None:
    remote = session.model("echo")
    module = torch.nn.Sequential(remote) if held else remote
    with pytest.raises(RemoteWeightsError, match=r"'echo'.*memory format"):
        module.to(memory_format=layout)
    assert remote(torch.ones(1)).item() == 1
    assert module.to("cpu", memory_format=torch.contiguous_format) is module


def test_a_dtype_that_the_worker_does_not_follow_is_warned_of(
    session: Session, caplog: pytest.LogCaptureFixture
) -> None:
    remote = session.model("echo")
    remote.to(torch.float32)
    assert not caplog.records
    remote.half()
    assert "'echo' is converted to torch.float16 here" in caplog.text
    assert "weight_dtype='float16'" in caplog.text
