from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from tests.support.backend import FunctionBackend
from tests.support.worker import ThreadWorker

from comfy_gpu_offload import Session, connect
from comfy_gpu_offload.errors import ModelFailedError
from comfy_gpu_offload.io import prediction

SHAPE = (4, 16, 16, 16)
STEPS = 12
Model = Callable[..., torch.Tensor]


def velocity(x: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
    """Something a latent's every part is turned into, each its own way."""
    halves = x.float().chunk(2)
    return torch.cat([torch.tanh(halves[0] * scale[0]), torch.sin(halves[1] * 2)]).to(x.dtype)


@pytest.fixture
def backend() -> FunctionBackend:
    return FunctionBackend(velocity=velocity)


@pytest.fixture
def worker(backend: FunctionBackend) -> Iterator[ThreadWorker]:
    with ThreadWorker(backend) as made:
        yield made


@pytest.fixture
def session(worker: ThreadWorker) -> Iterator[Session]:
    with connect(worker.url, compression="planes", retry_s=10) as made:
        yield made


def steps(model: Model, seed: int = 0, dtype: torch.dtype = torch.bfloat16) -> Iterator[torch.Tensor]:
    """Two-step runs, as a multistep sampler makes them: float32 here, `dtype` at the model."""
    x = torch.randn(SHAPE, generator=torch.Generator().manual_seed(seed))
    last = None
    for step in range(STEPS):
        out = model(torch.cat([x, x]).to(dtype), torch.full((2,), 1.0 + step / 7))
        cond, uncond = out.float().chunk(2)
        now = uncond + 4 * (cond - uncond)
        x = x - 0.03 * (now if last is None else 1.5 * now - 0.5 * last)
        last = now
        yield x


def last_of(run: Iterator[torch.Tensor]) -> torch.Tensor:
    return list(run)[-1]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_a_predicted_run_is_the_local_one_bit_for_bit_and_sends_a_sixteenth(
    session: Session, dtype: torch.dtype
) -> None:
    model = session.model("velocity")
    assert torch.equal(last_of(steps(model, dtype=dtype)), last_of(steps(velocity, dtype=dtype)))
    up = [timings.bytes_up for timings in model.timings]
    assert max(up[4:]) < 4096
    assert all(timings.exchanges == 1 for timings in model.timings)


def test_interleaved_runs_on_one_model_stay_apart(session: Session) -> None:
    model = session.model("velocity")
    runs = [steps(model, seed) for seed in (1, 2)]
    for _ in range(STEPS):
        found = [next(run) for run in runs]
    for seed, value in zip((1, 2), found, strict=True):
        assert torch.equal(value, last_of(steps(velocity, seed)))
    assert max(timings.bytes_up for timings in list(model.timings)[10:]) < 4096


def test_channels_that_stay_are_not_sent_again(session: Session) -> None:
    model = session.model("echo")
    context = torch.randn(1, 20, 3, 16, 16).bfloat16()
    x = torch.randn(1, 16, 3, 16, 16)
    for _ in range(5):
        sent = torch.cat([x.bfloat16(), context], 1)
        assert torch.equal(model(sent), sent)
        x = x + torch.randn_like(x)  # never foretold
    plain = 2 * x.nbytes // 4 + 2 * context.nbytes
    assert model.last_timings is not None
    assert model.last_timings.bytes_up < plain
    assert model.last_timings.bytes_up < 2 * x.numel() + 2000


def test_a_restarted_worker_costs_one_plain_resend(backend: FunctionBackend) -> None:
    with ThreadWorker(backend) as first:
        model = connect(first.url, compression="planes", retry_s=30).model("velocity")
        run = steps(model)
        for _ in range(5):
            next(run)
        port = first.port
    with ThreadWorker(backend, port=port):
        assert torch.equal(last_of(run), last_of(steps(velocity)))
    assert sum(timings.exchanges - 1 for timings in list(model.timings)[6:]) == 0
    assert model.timings[-1].bytes_up < 4096


def test_other_arithmetic_is_noticed_and_the_rest_of_the_run_goes_plainly(
    session: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = session.model("velocity")
    run = steps(model)
    for _ in range(4):
        next(run)
    decode = prediction.decode
    monkeypatch.setattr(prediction, "decode", lambda *given: _last_bit_flipped(decode(*given)))
    assert torch.equal(last_of(run), last_of(steps(velocity)))
    assert [timings.exchanges for timings in model.timings] == [1, 1, 1, 1, 2] + [1] * (STEPS - 5)


def _last_bit_flipped(column: prediction.Column) -> prediction.Column:
    words = column.words.copy()
    words[0] ^= 1
    return prediction.Column(words, column.dtype)


def test_a_call_that_failed_ends_its_history(session: Session, backend: FunctionBackend) -> None:
    model = session.model("velocity")
    run = steps(model)
    for _ in range(3):
        next(run)

    def broken(*_: Any) -> torch.Tensor:
        raise ValueError("no")

    backend.functions["velocity"] = broken
    with pytest.raises(ModelFailedError):
        next(run)
    backend.functions["velocity"] = velocity
    assert torch.equal(last_of(steps(model)), last_of(steps(velocity)))
    assert all(timings.exchanges == 1 for timings in model.timings)


def test_a_raw_session_predicts_nothing(worker: ThreadWorker) -> None:
    with connect(worker.url) as session:
        model = session.model("velocity")
        assert torch.equal(last_of(steps(model)), last_of(steps(velocity)))
        assert min(timings.bytes_up for timings in model.timings) > 2 * 2 * torch.Size(SHAPE).numel()
