"""The setting `compression`, as a session that `connect` opens follows it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from tests.support.backend import FunctionBackend
from tests.support.breaking_proxy import BreakingProxy
from tests.support.worker import ThreadWorker

from comfy_gpu_offload import connect

SHAPE = (4, 16, 64, 64)
RAW_BYTES = torch.Size(SHAPE).numel() * 2
STEPS = 8


def velocity(x: torch.Tensor) -> torch.Tensor:
    wanted, dropped = x.float().chunk(2)
    return torch.cat([torch.tanh(wanted), torch.sin(2 * dropped)]).to(x.dtype)


def run(model: object) -> torch.Tensor:
    """Sample by Euler's method in bfloat16, with guidance."""
    x = torch.randn(SHAPE[0] // 2, *SHAPE[1:], generator=torch.Generator().manual_seed(0))
    for _ in range(STEPS):
        wanted, dropped = model(torch.cat([x, x]).bfloat16()).float().chunk(2)  # type: ignore[operator]
        x = x - 0.05 * (dropped + 4 * (wanted - dropped))
    return x


@pytest.fixture
def worker() -> Iterator[ThreadWorker]:
    with ThreadWorker(FunctionBackend(velocity=velocity)) as made:
        yield made


def test_auto_finds_a_slow_tunnel_behind_this_machines_address_and_stays_lossless(
    worker: ThreadWorker,
) -> None:
    with BreakingProxy(worker.port) as tunnel:
        tunnel.rate = 2e6
        with connect(tunnel.url) as session:
            model = session.model("velocity")
            assert torch.equal(run(model), run(velocity))
    up = [timings.bytes_up for timings in model.timings]
    assert max(up[-3:]) < RAW_BYTES / 8
    assert max(timings.bytes_down for timings in list(model.timings)[-3:]) < RAW_BYTES / 1.5


@pytest.mark.parametrize("compression", ["none", "planes"])
def test_a_name_holds_whatever_the_link(worker: ThreadWorker, compression: str) -> None:
    with BreakingProxy(worker.port) as tunnel:
        tunnel.rate = 8e6
        with connect(tunnel.url, compression=compression) as session:
            model = session.model("velocity")
            assert torch.equal(run(model), run(velocity))
    raw = [timings.bytes_up > RAW_BYTES for timings in model.timings]
    assert raw == [compression == "none"] * STEPS


def test_a_run_is_expected_to_move_what_its_way_moves(worker: ThreadWorker) -> None:
    with connect(worker.url, compression="none") as session:
        assert session.call_shares == (1.0, 1.0)
        plain_s = session.coding_s(100_000, 100_000)
    with connect(worker.url, compression="int8-block") as session:
        share = session.stored_share
        assert session.call_shares == (share, share)
    with connect(worker.url, compression="planes") as session:
        up, down = session.call_shares
        model = session.model("velocity")
        run(model)
        assert up < down < session.stored_share
        assert session.coding_s(100_000, 100_000) > 10 * plain_s
    moved = sum(timings.bytes_up for timings in model.timings) / STEPS / RAW_BYTES
    assert moved < 2 * up
