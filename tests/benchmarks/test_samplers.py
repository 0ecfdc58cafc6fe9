from __future__ import annotations

from math import log

import pytest
import torch

from comfy_gpu_offload.digits.conditioning import conditioning, unconditional
from comfy_gpu_offload.digits.latent import process_out
from comfy_gpu_offload.digits.model import load
from comfy_gpu_offload.digits.sampling import noise, sample, schedule

# The flow from noise of deviation 1 to pictures of this one: x keeps its direction and takes the deviation of its
# sigma, so that where it ends is known.
DEVIATION = 0.5


def deviation(sigma: float) -> float:
    return (sigma**2 + ((1 - sigma) * DEVIATION) ** 2) ** 0.5


def velocity(x: torch.Tensor, sigma: float) -> torch.Tensor:
    return x * (sigma - (1 - sigma) * DEVIATION**2) / deviation(sigma) ** 2


@pytest.mark.parametrize(("name", "order"), [("euler", 1), ("heun", 2), ("dpmpp_2m", 2)])
def test_samplers_converge_with_their_order(name: str, order: int) -> None:
    from samplers import SAMPLERS

    start = torch.linspace(-2, 2, 9, dtype=torch.float64)
    # Not down to 0: the last step is of the first order in all of them.
    ends = [SAMPLERS[name](velocity, start, torch.linspace(1, 0.2, steps + 1).tolist()) for steps in (50, 100)]
    errors = [float((end - deviation(0.2) * start).abs().max()) for end in ends]
    assert order - 0.25 < log(errors[0] / errors[1]) / log(2) < order + 0.6


def test_euler_is_the_packages_own() -> None:
    from coded_model import CodedModel
    from comfy_gpu_offload.io import codecs
    from samplers import euler

    model, labels = load(torch.bfloat16), [3, 1, 4]
    halves = zip(conditioning(labels), unconditional(3), strict=True)
    context, pooled = (torch.cat(pair).bfloat16() for pair in halves)
    coded = CodedModel(model, codecs.AUTO)

    def guided(x: torch.Tensor, sigma: float) -> torch.Tensor:
        labelled, dropped = coded.predict(torch.cat([x, x]).bfloat16(), sigma, context, pooled).float().chunk(2)
        return dropped + 2.0 * (labelled - dropped)

    with torch.no_grad():
        latents = process_out(euler(guided, noise(labels, 5), schedule(4).tolist()))
    assert torch.equal(latents, sample(model, labels, steps=4, seed=5, dtype=torch.bfloat16))
    assert coded.elements == 4 * 2 * 6 * 16 * 64
    assert coded.bytes < 2 * coded.elements
