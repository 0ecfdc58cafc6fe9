"""Measure what prediction leaves of the bytes of a sampling run: the digits model in bfloat16, through a worker.

    python benchmarks/prediction.py --output plots

Each sampler runs three times through the same worker: raw, coded as where nothing is predicted, and predicted. Bits
are those of whole frames, headers and conditioning included, averaged over all calls. Raw, 32 are sent for each
element of the latent, since both halves of the guidance hold it, and 16 received for each element of a prediction.

Then the same through workers whose arithmetic is another one: the model's, which is nothing to prediction; and that
of prediction itself, where the first prediction that fails costs one plain resend, and the run goes on without.

Held: for the deterministic samplers at most 1.8 bits up, and replies at least 1.5 times smaller than coded, in runs
of 20 steps or more, since the first call is not predicted; every latent of every run is bit for bit that of the raw
run through the same worker; one resend where predictions fail, none elsewhere. The command exits with 1 where that
is not so. Needs diffusers, which the `bench` extra brings.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).parent))
import arguments
import plots
from digits_worker import OTHER_PREDICTION, WORKERS, digits_worker
from predicted_runs import BOUND, SAMPLERS, WAYS, Run, Task, run
from results import Bound, Results, Table, conclude

_MOST_BITS_UP = 1.8
_LEAST_GAIN_DOWN = 1.5


@dataclass(frozen=True)
class Row:
    """One sampler through one worker.

    Attributes:
        raw_up: and the others: see `Run.bits_up` and `Run.bits_down`.
        gain_down: of predicted replies over coded ones.
        equal: whether all latents are those of the raw run.
        resends: in the predicted run; `resends_elsewhere`: in the two others.
        coded_frames_up, frames_up: bytes of the coded and of the predicted run's frames.
    """

    worker: str
    sampler: str
    calls: int
    raw_up: float
    coded_up: float
    predicted_up: float
    raw_down: float
    coded_down: float
    predicted_down: float
    gain_down: float
    equal: bool
    resends: int
    resends_elsewhere: int
    coded_frames_up: list[int]
    frames_up: list[int]

    @property
    def must_hold(self) -> bool:
        """Return whether the bounds on sizes apply to this run."""
        return self.sampler in BOUND and self.worker != OTHER_PREDICTION


def main() -> int:
    """Measure and print the table; return 1 if a bound is not held."""
    options = _options()
    torch.manual_seed(options.seed)
    rows = list(_rows(options))
    found = Results(
        "prediction",
        rows,
        [_table(worker, rows) for worker in options.workers],
        list(_bounds(rows)),
        plots={"prediction": lambda: _figure([row for row in rows if row.worker == options.workers[0]])},
    )
    return conclude(found, options)


def _options() -> argparse.Namespace:
    parser = arguments.parser(__doc__, seed_of="the noise that sampling starts from")
    parser.add_argument("--samplers", nargs="+", choices=SAMPLERS, default=list(SAMPLERS), metavar="NAME")
    parser.add_argument("--workers", nargs="+", choices=WORKERS, default=list(WORKERS), metavar="ARITHMETIC")
    parser.add_argument(
        "--batch", type=arguments.positive, default=64, help="digits at once (default: %(default)s)"
    )
    parser.add_argument("--steps", type=arguments.positive, default=20, help="of each run (default: %(default)s)")
    parser.add_argument("--guidance", type=arguments.number(0, 100), default=4.0, help="(default: %(default)s)")
    return parser.parse_args()


def _rows(options: argparse.Namespace) -> Iterator[Row]:
    task = Task(options.batch, options.steps, options.guidance, options.seed)
    progress: Any
    with arguments.progress(total=len(options.workers) * len(options.samplers) * len(WAYS), unit="run") as progress:
        for worker in options.workers:
            with digits_worker(worker) as url:
                for sampler in options.samplers:
                    runs = {}
                    for way in WAYS:
                        progress.set_description(f"{worker}, {sampler}, {way}")
                        runs[way] = run(url, way, sampler, task)
                        progress.update()
                    yield _row(worker, sampler, runs)


def _row(worker: str, sampler: str, runs: dict[str, Run]) -> Row:
    raw, coded, predicted = (runs[way] for way in WAYS)
    return Row(
        worker=worker,
        sampler=sampler,
        calls=len(raw.up),
        raw_up=raw.bits_up(),
        coded_up=coded.bits_up(),
        predicted_up=predicted.bits_up(),
        raw_down=raw.bits_down(),
        coded_down=coded.bits_down(),
        predicted_down=predicted.bits_down(),
        gain_down=coded.bits_down() / predicted.bits_down(),
        equal=coded.equals(raw) and predicted.equals(raw),
        resends=predicted.resends,
        resends_elsewhere=raw.resends + coded.resends,
        coded_frames_up=coded.up,
        frames_up=predicted.up,
    )


def _table(worker: str, rows: Sequence[Row]) -> Table:
    columns = {
        "sampler": "sampler",
        "calls": "calls",
        "up: raw": "raw_up .2f",
        "coded": "coded_up .2f",
        "predicted": "predicted_up .2f",
        "down: raw": "raw_down .2f",
        "coded ": "coded_down .2f",
        "predicted ": "predicted_down .2f",
        "smaller": "gain_down .2f",
        "resends": "resends",
    }
    return Table.of(f"Arithmetic: {WORKERS[worker]}", columns, [row for row in rows if row.worker == worker])


def _bounds(rows: list[Row]) -> Iterator[Bound]:
    for worker in dict.fromkeys(row.worker for row in rows if row.must_hold):
        held = [row for row in rows if row.worker == worker and row.must_hold]
        names = ", ".join(row.sampler for row in held)
        most, least = max(row.predicted_up for row in held), min(row.gain_down for row in held)
        yield Bound.at_most(f"{worker}: bits up, the most of {names}", most, _MOST_BITS_UP)
        yield Bound.at_least(f"{worker}: replies smaller than coded, times, the least", least, _LEAST_GAIN_DOWN)
    equal = sum(row.equal for row in rows)
    yield Bound.at_least("runs all of whose latents are the raw run's bit for bit", equal, len(rows), ".0f")
    unneeded = sum(row.resends_elsewhere + (row.resends if row.worker != OTHER_PREDICTION else 0) for row in rows)
    yield Bound.at_most("resends where predictions hold", unneeded, 0, ".0f")
    if others := [row.resends for row in rows if row.worker == OTHER_PREDICTION]:
        yield Bound.at_most("resends in a run where they do not, the most", max(others), 1, ".0f")
        yield Bound.at_least("resends in a run where they do not, the fewest", min(others), 1, ".0f")


def _figure(rows: list[Row]) -> Any:
    figure, (axis,) = plots.panels(1, 1, width=6.4, height=3.6)
    for row, colour in zip(rows, plots.COLOURS, strict=False):
        sizes = [size / 1e3 for size in row.frames_up]
        axis.plot(range(1, len(sizes) + 1), sizes, color=colour, label=row.sampler, marker=".")
    coded = [size / 1e3 for size in rows[0].coded_frames_up]
    axis.plot(range(1, len(coded) + 1), coded, color=plots.GREY, label="coded alone", linestyle="--")
    axis.set(xlabel="call", ylabel="frame up, KB", yscale="log")
    plots.legend(figure, axis, columns=5)
    return figure


if __name__ == "__main__":
    sys.exit(main())
