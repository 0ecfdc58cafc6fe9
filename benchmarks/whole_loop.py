"""Measure a sampling run over slow links, with a call per step and as one job, against the prediction.

    python benchmarks/whole_loop.py
    python benchmarks/whole_loop.py --link 80/20/100 --steps 20 --compute-ms 100

The run is one of a deterministic sampler on a trained flow (mosaic.py), from an empty latent and without guidance,
in bfloat16; its conditioning is at the worker already. A call a step is measured with the default compression, and
without any. The worker takes a fixed time a call; the link is a proxy of threads (round trip and rates hold to a
percent; TCP's own slow starts are not part of it), or with `--kind tun` real TCP. Bounds that are held, over the
proxy: the whole loop takes at most 1.1 times compute + one round trip + bytes / bandwidth, and the prediction lies
within 20 % of what then happens.
"""

from __future__ import annotations

import argparse
import statistics
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).parent))
import arguments
import plots
from comfy_gpu_offload.client.offload_estimate import OffloadEstimator, RunShape, Stored
from comfy_gpu_offload.tuning.link import Link
from each_step_runs import WAYS, follow, session_over
from emulated_link import described, emulated
from mosaic import mosaic_worker
from results import Bound, Results, Table, conclude

_LINKS = ["20/100/100", "80/20/100", "150/10/50"]
_WHOLE_BOUND, _PREDICTION_BOUND = 1.1, 0.2


_COLUMNS = {
    "link": "link",
    "each step, uncompressed, s": "raw_s .2f",
    "each step s": "each_s .2f",
    "predicted": "predicted_each_s .2f",
    "whole loop s": "whole_s .2f",
    "predicted so": "predicted_whole_s .2f",
    "ideal s": "ideal_s .2f",
    "ratio": "ratio .2f",
    "requests": "requests",
}


@dataclass(frozen=True)
class Row:
    """Both ways over one link, in seconds.

    Attributes:
        raw_s: with a call a step and no compression.
        each_s: with a call a step and the default compression.
        ratio: of the whole loop to its ideal.
    """

    link: str
    requests: int
    raw_s: float
    each_s: float
    whole_s: float
    ideal_s: float
    ratio: float
    predicted_each_s: float
    predicted_whole_s: float

    @property
    def largest_error(self) -> float:
        """Return the errors of the two predictions, as shares of the measured times."""
        return max(abs(self.predicted_each_s / self.each_s - 1), abs(self.predicted_whole_s / self.whole_s - 1))


def main() -> int:
    """Print the table; exit status 1 if a bound is not held."""
    parser = arguments.parser(__doc__, seed_of="latents and conditioning")
    parser.add_argument(
        "--link", type=arguments.link, action="append", help="MS/MBIT/MBIT: round trip, up, down; repeat for more"
    )
    parser.add_argument("--steps", type=arguments.positive, default=20, help="(default: %(default)s)")
    parser.add_argument(
        "--compute-ms",
        type=arguments.number(0, 3_600_000),
        default=100.0,
        help="of one call (default: %(default)s)",
    )
    parser.add_argument(
        "--size", type=arguments.positive, default=128, help="of the latent's sides (default: %(default)s)"
    )
    parser.add_argument("--kind", choices=["tun", "threads"], default="threads", help="of link emulation")
    options = parser.parse_args()
    torch.manual_seed(options.seed)
    rows = []
    with mosaic_worker(options.compute_ms / 1e3) as url:
        port = int(url.rsplit(":", 1)[1])
        for link in arguments.progress(options.link or list(map(arguments.link, _LINKS)), unit="link"):
            with emulated(link, port, options.kind) as near:
                rows.append(_measure(link, near, options))
    title = f"{options.steps} steps of {options.compute_ms:.0f} ms, latent of {options.size}x{options.size}"
    found = Results(
        "whole_loop",
        rows,
        [Table.of(title, _COLUMNS, rows)],
        list(_bounds(rows)),
        {"whole_loop": lambda: _figure(rows)},
        [described(options.kind)],
    )
    return conclude(found, options)


def _bounds(rows: list[Row]) -> Iterator[Bound]:
    for row in rows:
        yield Bound.at_most(f"{row.link}: whole loop over its ideal", row.ratio, _WHOLE_BOUND)
        yield Bound.at_most(f"{row.link}: predictions are off by", row.largest_error, _PREDICTION_BOUND, ".0%")


def _measure(link: Link, port: int, options: argparse.Namespace) -> Row:
    latent = torch.zeros(1, 16, options.size, options.size)
    constant = {"context": torch.randn(1, 256, 2048, generator=torch.Generator().manual_seed(options.seed))}
    raw_s, _ = _each_step(port, "raw", latent, constant, options)
    each_s, compute_s = _each_step(port, "auto", latent, constant, options)
    with session_over(port, WAYS["auto"]) as session:
        model = session.model("echo")
        job = {"latent": latent, "positive": [[constant["context"], {}]], "negative": []}
        fields = {"sampler": "euler", "scheduler": "simple", "seed": 0, "steps": options.steps, "cfg": 1.0}
        model.sample({**fields, "steps": 1}, job)  # both ways bring the conditioning once
        stored = Stored(session.stored_share, *session.call_shares)
        call_bytes = 2 * latent.numel()
        coding_s = session.coding_s(call_bytes, call_bytes)
        shape = RunShape.of(options.steps, latent.numel(), call_bytes, stored, is_empty=True, coding_s=coding_s)
        estimate = OffloadEstimator(session).estimate(shape, compute_s)
        started = perf_counter()
        _, timings = model.sample({**fields, "seed": 1}, job)
        whole_s = perf_counter() - started
    ideal_s = options.steps * options.compute_ms / 1e3 + link.ideal_s(timings.bytes_up, timings.bytes_down)
    return Row(
        link=str(link),
        requests=timings.exchanges,
        raw_s=raw_s,
        each_s=each_s,
        whole_s=whole_s,
        ideal_s=ideal_s,
        ratio=whole_s / ideal_s,
        predicted_each_s=estimate.each_step_s,
        predicted_whole_s=estimate.whole_loop_s,
    )


def _each_step(
    port: int, way: str, latent: torch.Tensor, constant: dict[str, torch.Tensor], options: argparse.Namespace
) -> tuple[float, float]:
    """Return the seconds of a run with a call a step, without the first call, which brings the conditioning.

    A settled step stands for the one left out. Also returns the seconds that the worker computed in a step.
    """
    with session_over(port, WAYS[way]) as session:
        made = follow(
            session, tuple(latent.shape), torch.bfloat16, constant, steps=options.steps + 1, seed=options.seed
        )
    return sum(made.times[1:]), statistics.median(call.compute_s for call in made.timings[1:])


def _figure(rows: list[Row]) -> Any:
    figure, (axis,) = plots.panels(1, 1, width=1.6 + 2.0 * len(rows), height=2.6)
    plots.grouped(
        axis,
        [row.link.replace(", ", "\n") for row in rows],
        {
            "each step, uncompressed": [row.raw_s for row in rows],
            "each step": [row.each_s for row in rows],
            "each step, predicted": [row.predicted_each_s for row in rows],
            "whole loop": [row.whole_s for row in rows],
            "whole loop, predicted": [row.predicted_whole_s for row in rows],
            "ideal of the whole loop": [row.ideal_s for row in rows],
        },
    )
    axis.set_ylabel("seconds a run")
    plots.legend(figure, axis, columns=3)
    return figure


if __name__ == "__main__":
    sys.exit(main())
