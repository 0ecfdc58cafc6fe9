"""Deterministic samplers for a rectified flow, in plain torch: they amplify a lossy codec's errors.

Each follows `velocity(x, sigma)`, the prediction of noise minus picture, down `sigmas` `[steps + 1]`, which end in
0, from `x` `[B, ...]`, float32. The picture that is predicted on the way is x - sigma * velocity.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from math import exp, log

from torch import Tensor

Velocity = Callable[[Tensor, float], Tensor]


def euler(velocity: Velocity, x: Tensor, sigmas: list[float]) -> Tensor:
    """Euler's method: a call a step."""
    for sigma, following in pairwise(sigmas):
        x = x + (following - sigma) * velocity(x, sigma)
    return x


def heun(velocity: Velocity, x: Tensor, sigmas: list[float]) -> Tensor:
    """Heun's method, two calls a step but the last: Karras et al. 2022 (arXiv 2206.00364), algorithm 1."""
    for sigma, following in pairwise(sigmas):
        slope = velocity(x, sigma)
        tried = x + (following - sigma) * slope
        if following:
            slope = (slope + velocity(tried, following)) / 2
        x = x + (following - sigma) * slope
    return x


def dpmpp_2m(velocity: Velocity, x: Tensor, sigmas: list[float]) -> Tensor:
    """DPM-Solver++(2M), a call a step: Lu et al. 2022 (arXiv 2211.01095), algorithm 2, with lambda = -log sigma.

    With alpha = 1 - sigma the step from sigma s to t is x (t / s) + picture (1 - t / s) to the first order,
    whatever lambda is; the second order extrapolates the picture in -log sigma, as ComfyUI's sampler does.
    """
    before: tuple[float, Tensor] | None = None
    for sigma, following in pairwise(sigmas):
        picture = velocity(x, sigma).mul(-sigma).add(x)
        used = picture
        if following == 0:
            return picture
        step = log(sigma) - log(following)
        if before is not None:
            ratio = step / (2 * before[0])
            used = (1 + ratio) * picture - ratio * before[1]
        x = exp(-step) * x + (1 - exp(-step)) * used
        before = step, picture
    return x


SAMPLERS = {"euler": euler, "heun": heun, "dpmpp_2m": dpmpp_2m}
