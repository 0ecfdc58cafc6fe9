"""Measure a sampling run over slow links, with a call per step and as one job, against the prediction.

    python benchmarks/whole_loop.py
    python benchmarks/whole_loop.py --link 80/20/100 --steps 20 --compute-ms 100

The worker's model takes a fixed time a call and returns its latent; the link is a proxy of threads (round trip
and rates hold to a percent; TCP's own slow starts are not part of it), or with `--kind tun` real TCP. Bounds that
are held, over the proxy: the whole loop takes at most 1.1 times compute + one round trip + bytes / bandwidth, and
the prediction lies within 20 % of what then happens.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).parent))
import arguments
import comfy_gpu_offload
import plots
from comfy_gpu_offload.client.offload_estimate import OffloadEstimator, RunShape, compute_of
from echo_worker import echo_worker
from emulated_link import Link, described, emulated
from results import Bound, Results, Table, conclude

_LINKS = ["20/100/100", "80/20/100", "150/10/50"]
_WHOLE_BOUND, _PREDICTION_BOUND = 1.1, 0.2


_COLUMNS = {
    "link": "link",
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
    """Both ways over one link. Seconds; `ratio` is of the whole loop to its ideal."""

    link: str
    requests: int
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
    with echo_worker(options.compute_ms / 1e3) as url:
        port = int(url.rsplit(":", 1)[1])
        for link in arguments.progress(options.link or list(map(arguments.link, _LINKS)), unit="link"):
            with emulated(link, port, options.kind) as near:
                rows.append(_measure(link, f"http://127.0.0.1:{near}", options))
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


def _measure(link: Link, url: str, options: argparse.Namespace) -> Row:
    latent = torch.randn(1, 16, options.size, options.size)
    conditioning = torch.randn(1, 256, 2048)
    with comfy_gpu_offload.connect(url, compression="none") as session:
        model = session.model("echo")
        half, sigma = latent.to(torch.bfloat16), torch.ones(1)
        model(half, sigma, context=conditioning)  # both ways bring the conditioning once
        job = {"latent": latent, "positive": [[conditioning, {}]], "negative": []}
        fields = {"sampler": "euler", "scheduler": "simple", "seed": 0, "steps": options.steps, "cfg": 1.0}
        model.sample({**fields, "steps": 1}, job)
        shape = RunShape(options.steps, half.nbytes, half.nbytes, latent.nbytes, latent.nbytes)
        estimate = OffloadEstimator(session).estimate(shape, compute_of(model.timings))
        started = perf_counter()
        for step in range(options.steps):
            model(half + step, sigma, context=conditioning)
        each_s = perf_counter() - started
        started = perf_counter()
        _, timings = model.sample(fields, {**job, "latent": latent + 1})
        whole_s = perf_counter() - started
    ideal_s = options.steps * options.compute_ms / 1e3 + link.ideal_s(timings.bytes_up, timings.bytes_down)
    return Row(
        link=str(link),
        requests=timings.exchanges,
        each_s=each_s,
        whole_s=whole_s,
        ideal_s=ideal_s,
        ratio=whole_s / ideal_s,
        predicted_each_s=estimate.each_step_s,
        predicted_whole_s=estimate.whole_loop_s,
    )


def _figure(rows: list[Row]) -> Any:
    figure, (axis,) = plots.panels(1, 1, width=1.6 + 2.0 * len(rows), height=2.6)
    plots.grouped(
        axis,
        [row.link.replace(", ", "\n") for row in rows],
        {
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
