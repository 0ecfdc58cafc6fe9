from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import pytest
import torch
from tests.support.backend import FunctionBackend
from tests.support.breaking_proxy import BreakingProxy
from tests.support.differing_arithmetic import other_arithmetic_elsewhere
from tests.support.worker import ThreadWorker

from comfy_gpu_offload import Session, connect
from comfy_gpu_offload.client.encoding.predicted_runs import PredictedRuns
from comfy_gpu_offload.errors import ModelFailedError
from comfy_gpu_offload.prediction import arithmetic
from comfy_gpu_offload.prediction.history import History
from comfy_gpu_offload.protocol.envelope import Envelope
from comfy_gpu_offload.protocol.messages import Cancel
from comfy_gpu_offload.server.answers import forward as forward_answers
from comfy_gpu_offload.server.prediction_histories import Histories

SHAPE = (4, 16, 16, 16)
STEPS = 12
Model = Callable[..., torch.Tensor]


def velocity(x: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
    """Return a result for both halves of a latent, each computed in its own way."""
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
    with connect(worker.url, compression="planes", retry_s=60) as made:
        yield made


def test_an_interrupt_while_runs_are_compared_leaves_them_to_go_on_with(monkeypatch: pytest.MonkeyPatch) -> None:
    predictions, x = PredictedRuns(), torch.randn(SHAPE)
    tracked = predictions.begin("model", (x,))
    assert tracked is not None
    tracked.finish(None, Envelope(Cancel(request="nothing-1"), None, ()))

    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(History, "match", interrupted)
        with pytest.raises(KeyboardInterrupt):
            predictions.begin("model", (x,))
    again = predictions.begin("model", (x,))
    assert again is not None
    assert again.payload is not None  # nothing of it has changed


def steps(model: Model, seed: int = 0, dtype: torch.dtype = torch.bfloat16) -> Iterator[torch.Tensor]:
    """Sample by a two-step method, with the state in float32 and `dtype` at the model."""
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


def test_conditioning_crosses_once_to_a_restarted_worker_too() -> None:
    backend = FunctionBackend(velocity=lambda x, scale, context: velocity(x, scale))
    context = torch.randn(64, 1024, generator=torch.Generator().manual_seed(1))
    with ThreadWorker(backend) as first:
        model = connect(first.url, compression="planes", retry_s=30).model("velocity")
        run = steps(partial(model, context=context))
        for _ in range(5):
            next(run)
        port = first.port
    with ThreadWorker(backend, port=port):
        assert torch.equal(last_of(run), last_of(steps(velocity)))
    restarted = model.timings[5]
    assert restarted.bytes_up < 1.5 * context.nbytes
    assert not any(timings.bytes_up > context.nbytes / 2 for timings in list(model.timings)[6:])


def test_other_arithmetic_is_noticed_and_the_rest_of_the_run_goes_plainly(
    session: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = session.model("velocity")
    run = steps(model)
    for _ in range(4):
        next(run)
    decode = arithmetic.decode
    monkeypatch.setattr(arithmetic, "decode", lambda *given: _last_bit_flipped(decode(*given)))
    assert torch.equal(last_of(run), last_of(steps(velocity)))
    assert [timings.exchanges for timings in model.timings] == [1, 1, 1, 1, 2] + [1] * (STEPS - 5)


def _last_bit_flipped(column: arithmetic.Column) -> arithmetic.Column:
    words = column.words.copy()
    words[0] ^= 1
    return arithmetic.Column(words, column.dtype)


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
    with connect(worker.url, compression="none") as session:
        model = session.model("velocity")
        assert torch.equal(last_of(steps(model)), last_of(steps(velocity)))
        assert min(timings.bytes_up for timings in model.timings) > 2 * 2 * torch.Size(SHAPE).numel()


def resends(model: Any) -> list[int]:
    return [timings.exchanges - 1 for timings in model.timings]


def test_a_worker_of_other_arithmetic_costs_one_resend_and_gives_its_own_bits(
    session: Session, backend: FunctionBackend
) -> None:
    model = session.model("velocity")
    with other_arithmetic_elsewhere():
        assert torch.equal(last_of(steps(model)), last_of(steps(velocity)))
    assert sum(resends(model)) == 1
    plain = torch.Size(SHAPE).numel() * 2 * 10.4 / 16
    assert min(timings.bytes_up for timings in list(model.timings)[2:]) > plain


def test_the_next_run_after_other_arithmetic_tries_again(session: Session) -> None:
    """Another worker may answer by then; if it is the same one, that costs one more resend."""
    model = session.model("velocity")
    with other_arithmetic_elsewhere():
        last_of(steps(model))
    assert torch.equal(last_of(steps(model, seed=1)), last_of(steps(velocity, seed=1)))
    assert model.timings[-1].bytes_up < 4096
    assert sum(resends(model)) == 1


def test_a_reply_that_cannot_be_rebuilt_is_asked_for_under_another_name(
    session: Session, backend: FunctionBackend
) -> None:
    """Even the reply to the first input is predicted, since it is half of that input.

    Under the first name the worker keeps the reply that could not be restored.
    """
    backend.functions["halve"] = lambda x: x * 0.5
    with other_arithmetic_elsewhere():
        model = halved(session, range(1))
    assert resends(model) == [1]
    assert len(backend.calls) == 2


def halved(session: Session, seeds: range) -> Any:
    """Call a model with noise of these seeds, each of them a run of its own."""
    model = session.model("halve")
    for seed in seeds:
        x = torch.randn(SHAPE, generator=torch.Generator().manual_seed(seed)).bfloat16()
        assert torch.equal(model(torch.cat([x, x])), torch.cat([x, x]) * 0.5)
    return model


def test_a_worker_of_other_arithmetic_costs_no_resend_in_every_run(
    session: Session, backend: FunctionBackend
) -> None:
    backend.functions["halve"] = lambda x: x * 0.5
    with other_arithmetic_elsewhere():
        assert resends(halved(session, range(18))) == [1, 1] + ([0] * 7 + [1]) * 2
    # It is another one now: the next that is tried is foretold, and all after that.
    assert sum(resends(halved(session, range(18, 28)))) == 0
    sizes = [timings.bytes_down for timings in halved(session, range(28, 30)).timings]
    assert max(sizes) < torch.Size(SHAPE).numel()


def test_a_lost_reply_is_asked_for_again_and_the_run_stays_foretold(
    worker: ThreadWorker, backend: FunctionBackend
) -> None:
    with BreakingProxy(worker.port) as proxy, connect(proxy.url, compression="planes", retry_s=60) as session:
        model = session.model("velocity")
        run = steps(model)
        for step in range(STEPS - 1):
            if step in {1, 5}:
                proxy.break_after_down = proxy.down + 200
            next(run)
        assert torch.equal(next(run), last_of(steps(velocity)))
    assert [index for index, count in enumerate(resends(model)) if count] == [1, 5]
    assert len(backend.calls) == STEPS  # each was computed once
    assert model.timings[-1].bytes_up < 4096


def test_a_lost_reply_of_a_worker_that_was_restarted_too(backend: FunctionBackend) -> None:
    """Its reply is lost with it, and its history: the call is made again plainly, and a new history begun."""
    with ThreadWorker(backend) as first, BreakingProxy(first.port) as proxy:
        model = connect(proxy.url, compression="planes", retry_s=30).model("velocity")
        run = steps(model)
        for _ in range(4):
            next(run)
        with ThreadWorker(backend) as second:
            proxy.break_after_down = proxy.down + 200
            proxy.target = second.port
            assert torch.equal(last_of(run), last_of(steps(velocity)))
    assert sum(resends(model)) == 2
    assert model.timings[-1].bytes_up < 4096


@pytest.fixture
def forgetful_worker(backend: FunctionBackend, monkeypatch: pytest.MonkeyPatch) -> Iterator[ThreadWorker]:
    """Run a worker with room for one history per client."""
    monkeypatch.setattr(forward_answers, "Histories", partial(Histories, for_each=1))
    with ThreadWorker(backend) as made:
        yield made


def test_runs_that_drive_each_other_out_at_the_worker_go_on_without_prediction(
    forgetful_worker: ThreadWorker,
) -> None:
    with connect(forgetful_worker.url, compression="planes", retry_s=60) as session:
        model = session.model("velocity")
        runs = [steps(model, seed) for seed in (1, 2)]
        for _ in range(STEPS):
            found = [next(run) for run in runs]
    for seed, value in zip((1, 2), found, strict=True):
        assert torch.equal(value, last_of(steps(velocity, seed)))
    # A history is begun again once, which may drive out the other's; the second time the run goes without.
    assert 1 <= sum(resends(model)) <= 4
    assert sum(resends(model)[8:]) == 0


def test_a_run_beside_which_nothing_runs_is_foretold_by_a_forgetful_worker(
    forgetful_worker: ThreadWorker,
) -> None:
    with connect(forgetful_worker.url, compression="planes", retry_s=60) as session:
        model = session.model("velocity")
        for seed in (1, 2):
            assert torch.equal(last_of(steps(model, seed)), last_of(steps(velocity, seed)))
    assert sum(resends(model)) == 0
    assert model.timings[-1].bytes_up < 4096
