from __future__ import annotations

import math

import pytest
import torch


def mean_square(tensor: torch.Tensor) -> float:
    return float(tensor.square().mean())


@pytest.mark.parametrize(("shape", "dtype"), [((1, 16, 16, 24), torch.bfloat16), ((2, 4, 20, 20), torch.float16)])
def test_a_run_of_any_shape_follows_the_trained_flow(shape: tuple[int, ...], dtype: torch.dtype) -> None:
    from comfy_gpu_offload.backends.base import ModuleCall
    from comfy_gpu_offload.protocol.messages import ModelRef
    from mosaic import MosaicBackend, run

    backend, ref = MosaicBackend(), ModelRef(name="echo")
    calls = []

    def call(latent: torch.Tensor, timestep: torch.Tensor) -> torch.Tensor:
        calls.append(latent)
        result = backend.forward(ModuleCall(ref, "", (latent, timestep))).result
        assert isinstance(result, torch.Tensor)
        assert (result.shape, result.dtype) == (latent.shape, latent.dtype)
        return result

    *_, final = run(call, shape, dtype, steps=8, seed=0)
    again = list(run(call, shape, dtype, steps=8, seed=0))[-1]
    assert len(calls) == 16
    assert all((each.shape, each.dtype) == (shape, dtype) for each in calls)
    assert torch.equal(final, again)
    # Noise at first, and in the end something that the flow leads to.
    assert mean_square(calls[0].float()) == pytest.approx(1, rel=0.15)
    start = calls[0][:1].float()
    correlation = float((start * final).sum()) / math.sqrt(float((start**2).sum() * (final**2).sum()))
    assert correlation < 0.7
