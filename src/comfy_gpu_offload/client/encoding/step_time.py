"""The duration of one step for each way to encode its tensors.

    step = compute + round trip + bytes up / rate up + bytes down / rate down + coding

It holds while the connection is kept warm as the worker computes. Otherwise a transfer begins slowly and takes
longer than its bytes at the link's rate. `benchmarks/tune.py --check` compares it with measured steps.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Final, NamedTuple

from ...io import codecs
from .link_speed import LinkSpeed


class EncodingKind(StrEnum):
    """The lossless ways to encode a call's tensors: uncompressed, by codec, or by prediction and codec."""

    RAW = "raw"
    CODED = "coded"
    PREDICTED = "predicted"

    @property
    def codec(self) -> codecs.Codec | codecs.Chooser:
        """Return the codec that stores what is sent."""
        return codecs.RAW if self is EncodingKind.RAW else codecs.AUTO


class CallCost(NamedTuple):
    """The measured cost of one call in which a latent was sent and no conditioning.

    Attributes:
        raw_up, raw_down: bytes of its tensors, uncompressed.
        up, down: bytes of the whole frames.
        coding_s: seconds of encoding and decoding, both sides together.
    """

    raw_up: int
    raw_down: int
    up: int
    down: int
    coding_s: float


@dataclass(frozen=True)
class StepCost:
    """The expected cost of a step with one encoding: bytes of whole frames, and seconds of both sides' coding."""

    up_bytes: float
    down_bytes: float
    coding_s: float


# Until calls have been measured: the share of the bytes that is left (docs/benchmarks.md), and nanoseconds of
# coding per byte, both sides together.
_GUESSED: Final = {
    EncodingKind.RAW: CallCost(1000, 1000, 1000, 1000, 2000 * 0.5e-9),
    EncodingKind.CODED: CallCost(1000, 1000, 400, 650, 2000 * 4e-9),
    EncodingKind.PREDICTED: CallCost(1000, 1000, 60, 320, 2000 * 20e-9),
}
# The number of calls that a guess counts as.
_GUESS_CALLS = 3
_CALLS_COUNTED = 12


def step_s(compute_s: float, link: LinkSpeed, cost: StepCost) -> float:
    """Return the seconds of a step."""
    return compute_s + link.network_s(cost.up_bytes, cost.down_bytes) + cost.coding_s


def fastest(link: LinkSpeed, costs: Mapping[str, StepCost], default: str, least_gain: float = 0.0) -> str:
    """Return the key of `costs` with the shortest step over `link`.

    Args:
        link: the link to the worker.
        costs: the cost of a step with each encoding.
        default: the key to keep unless another one gains more than `least_gain`.
        least_gain: seconds per step.
    """
    taken = {name: step_s(0.0, link, cost) for name, cost in costs.items()}
    best = min(taken, key=lambda name: taken[name])
    return best if taken[best] < taken[default] - least_gain else default


def expected_cost(kind: EncodingKind, calls: Iterable[CallCost], raw_up: int, raw_down: int) -> StepCost:
    """Return the cost of a call whose tensors take `raw_up` and `raw_down` bytes, by earlier calls of that kind."""
    seen = [_GUESSED[kind]] * _GUESS_CALLS + list(calls)[-_CALLS_COUNTED:]
    return StepCost(
        raw_up * statistics.fmean(each.up / max(each.raw_up, 1) for each in seen),
        raw_down * statistics.fmean(each.down / max(each.raw_down, 1) for each in seen),
        # A median, because one call during which the machine was busy says nothing about the others.
        (raw_up + raw_down)
        * statistics.median(each.coding_s / max(each.raw_up + each.raw_down, 1) for each in seen),
    )
