"""A decoded video of full size from a load-balancing endpoint: whole, in parts below every limit of its edge."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch
from tests.support.backend import FunctionBackend
from tests.support.runpod_edge import LoadBalancerEdge
from tests.support.runpod_gateway import KEY
from tests.support.worker import ThreadWorker

from comfy_gpu_offload.client.connect import connect_from
from comfy_gpu_offload.client.model_call import ModelCall
from comfy_gpu_offload.config.settings import given_settings

# 81 frames of 480 x 832, as a video VAE decodes them: 194 MB.
_SHAPE = (1, 3, 81, 480, 832)


@pytest.fixture(scope="module")
def video() -> torch.Tensor:
    """Return random values, which no codec makes much smaller."""
    return torch.rand(_SHAPE, dtype=torch.bfloat16, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("websockets", [True, False], ids=["WebSocket", "HTTP"])
def test_it_comes_whole_in_parts_with_progress(video: torch.Tensor, websockets: bool) -> None:
    told: list[tuple[int, int]] = []
    with (
        ThreadWorker(FunctionBackend(vae=lambda _: video), token=KEY) as worker,
        LoadBalancerEdge(worker.url) as edge,
    ):
        edge.passes_websockets = websockets
        with connect_from(given_settings(**edge.client_settings())) as session:
            described = session.model("vae").description
            call = ModelCall(
                described.ref,
                described.fingerprint,
                (torch.zeros(1, 16, 21, 60, 104),),
                {},
                on_received=lambda done, of: told.append((done, of)),
            )
            result, timings = session.forward(call)
        most = edge.limits.reply_bytes
    assert isinstance(result, torch.Tensor)
    assert torch.equal(result, video)
    size = told[-1][1]
    assert size > 100_000_000
    assert told[-1] == (size, size)
    assert timings.bytes_down >= size
    received = [done for done, _ in told]
    assert max(after - before for before, after in pairwise(received)) < most
