"""The expected time of a step with each compression setting, put together from measured pieces.

The link is measured to the worker; what a call moves and what coding costs, both sides, within this process (see
`encoding_costs`). The worker is taken to code as fast as this machine. The seconds of a run come from
`client.offload_estimate`, by which the node's `auto` decides.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping
from dataclasses import dataclass
from time import sleep

from ..client.offload_estimate import OffloadEstimate, RunShape, Stored
from ..client.session import Session
from .encoding_costs import LOSSLESS, EncodingCost, Shape
from .link_measurement import MeasuredLink, times_after_pauses

# Long enough for an idle connection to slow down.
_PAUSE_S = 0.6
_JOBS = 3

OF_CHOICE: dict[str, tuple[str, ...]] = {
    "auto": ("raw", "coded", "predicted"),
    **{"none" if name == "raw" else name: (name,) for name in LOSSLESS},
}
"""The lossless values of the setting -> the ways that a session may go with it, of which it takes the fastest."""


@dataclass(frozen=True)
class Prediction:
    """One compression setting and its figures: seconds and bytes.

    Attributes:
        choice: the setting's value.
        way: the encoding that it leads to.
        spread_s: by how much `step_s` differs between measurements, of link and coding together.
    """

    choice: str
    way: str
    bytes_up: float
    bytes_down: float
    coding_s: float
    network_s: float
    step_s: float
    spread_s: float


def predict(
    session: Session, shape: Shape, taken: Mapping[str, EncodingCost], link: MeasuredLink | None, *, adapts: bool
) -> list[Prediction]:
    """Predict the step of each setting, over the link that the session uses.

    Args:
        session: with the worker.
        shape: of the run.
        taken: what `encoding_costs.costs` measured.
        link: as measured; None where the connection idles while the worker computes, which makes transfers begin
            slowly: then each is measured after pauses as long.
        adapts: whether a session with `auto` chooses by measurement: not at an endpoint, see `client.connect`.

    Raises:
        OffloadError: the worker cannot be asked.
    """
    ways = {name: each if adapts else each[-1:] for name, each in OF_CHOICE.items()}
    pause_s = min(shape.compute_s, _PAUSE_S)
    used = dict.fromkeys(way for each in ways.values() for way in each)
    times = {
        way: times_after_pauses(session, taken[way], pause_s) if link is None else link.network_times(taken[way])
        for way in used
    }
    network = {way: statistics.median(each) for way, each in times.items()}
    found = []
    for choice, each in ways.items():
        way = min(each, key=lambda way: network[way] + taken[way].coding_s)
        cost = taken[way]
        found.append(
            Prediction(
                choice=choice,
                way=way,
                bytes_up=cost.up_bytes,
                bytes_down=cost.down_bytes,
                coding_s=cost.coding_s,
                network_s=network[way],
                step_s=shape.compute_s + network[way] + cost.coding_s,
                spread_s=max(times[way]) - min(times[way]) + cost.spread_s,
            )
        )
    return found


def estimate(session: Session, shape: Shape, step: Prediction) -> OffloadEstimate:
    """Return the expected seconds of a run: with a call each step as predicted, and as one job.

    Raises:
        OffloadError: the worker cannot be asked.
    """
    run = run_shape(session, shape, step)
    job_s = statistics.median(_job_s(session, run) for _ in range(_JOBS))
    return OffloadEstimate.of(run, shape.compute_s, step.network_s, job_s)


def run_shape(session: Session, shape: Shape, step: Prediction) -> RunShape:
    """Return the shape of the run as the node's `auto` takes it, with the figures of this prediction."""
    stored = Stored(session.stored_share, step.bytes_up / shape.call_bytes, step.bytes_down / shape.call_bytes)
    return RunShape.of(
        shape.steps,
        shape.elements,
        shape.call_bytes,
        stored,
        is_empty=shape.begins_empty,
        coding_s=step.coding_s,
    )


def _job_s(session: Session, run: RunShape) -> float:
    """Return the seconds of a job and of its later result: both begin slowly, as in a run."""
    sleep(_PAUSE_S)
    up_s = session.probe(run.job_up, 0)
    sleep(_PAUSE_S)
    return up_s + session.probe(0, run.job_down) - session.probe()
