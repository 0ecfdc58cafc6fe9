"""Hold what `comfy-gpu-offload tune` predicts to measured steps, over emulated links; without --check, run it.

    python benchmarks/tune.py --check             # its predictions against measured runs on four emulated links
    python benchmarks/tune.py --write             # the same as `comfy-gpu-offload tune --write`

The step is predicted as compute + coding on both sides + round trip + bytes / bandwidth, with as many bytes as a
run of a model by formula moves with each setting, prediction included (see `tuning/sampled_run.py`). Measured are
runs of a trained model (see mosaic.py). `--check` exits with 1 where a prediction is off by more than 15 % of the
step, or the advised setting is over 5 % slower than the fastest.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import torch

sys.path.insert(0, str(Path(__file__).parent))
import arguments
import plots
from comfy_gpu_offload.cli.main import main as command
from comfy_gpu_offload.tuning.advice import advised
from comfy_gpu_offload.tuning.encoding_costs import EncodingCost, Shape, costs
from comfy_gpu_offload.tuning.link_measurement import measure
from comfy_gpu_offload.tuning.step_prediction import estimate, predict
from emulated_link import best_kind, described, emulated
from measured_steps import measured_step_s, measured_whole_s, session_with
from mosaic import mosaic_worker
from results import Bound, Results, Table, conclude

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_CHECK_LINKS = ("20/100/100", "40/20/100", "50/100/100", "80/50/200")
_BOUND = 0.15
# What following the advice may cost.
_LOST = 0.05
_AS_ONE_JOB = "one job, a step"
_DTYPES = {"bfloat16": torch.bfloat16, "float16": torch.float16, "float32": torch.float32}


@dataclass(frozen=True)
class Checked:
    """A prediction and what was measured, over one link.

    Attributes:
        error: relative to the measured step.
        advised: whether it is the setting that would be advised.
    """

    link: str
    choice: str
    predicted_s: float
    measured_s: float
    error: float
    advised: bool = False


def main() -> int:
    """Run the command, or with `--check` print how well it predicts. Exit status 1 if a bound is not held."""
    if "--check" not in sys.argv and not {"-h", "--help"} & set(sys.argv):
        return command(["tune", *sys.argv[1:]])
    options = _options()
    shape = Shape(tuple(options.latent), _DTYPES[options.dtype], options.compute, options.steps, options.seed)
    return _check(shape, options)


def _options() -> argparse.Namespace:
    parser = arguments.parser(__doc__, seed_of="the run's noise")
    parser.add_argument("--check", action="store_true", required=True, help="hold predictions to measured steps")
    parser.add_argument(
        "--latent", type=arguments.positive, nargs="+", default=[1, 16, 128, 128], help="(default: Flux at 1024²)"
    )
    parser.add_argument("--dtype", choices=_DTYPES, default="bfloat16", help="of the model (default: %(default)s)")
    parser.add_argument(
        "--compute", type=arguments.seconds, default=0.6, help="seconds of a model call (default: %(default)s)"
    )
    parser.add_argument("--steps", type=arguments.positive, default=20, help="of a run (default: %(default)s)")
    parser.add_argument(
        "--link",
        type=arguments.link,
        nargs="+",
        default=list(map(arguments.link, _CHECK_LINKS)),
        help="MS/MBIT/MBIT",
    )
    parser.add_argument("--kind", choices=["tun", "threads"], default=best_kind(), help="of link emulation")
    return parser.parse_args()


def _check(shape: Shape, options: argparse.Namespace) -> int:
    rows: list[Checked] = []
    with ExitStack() as stack:
        port = int(stack.enter_context(mosaic_worker(shape.compute_s)).rsplit(":", 1)[1])
        taken = costs(shape)
        for link in arguments.progress(options.link, unit="link"):
            with emulated(link, port, options.kind) as near:
                rows += _check_link(str(link), near, taken, shape)
    columns = {
        "link": "link",
        "choice": "choice",
        "predicted ms": "predicted_s 1e3 .0f",
        "measured ms": "measured_s 1e3 .0f",
        "off by": "error +.1%",
    }
    results = Results(
        "tune",
        rows,
        [Table.of(f"A step with {shape.compute_s:g} s of compute", columns, rows)],
        [
            Bound.at_most(f"{link}, % that a prediction is off", 100 * worst, 100 * _BOUND, ".1f")
            for link, worst in _worst(rows).items()
        ]
        + [
            Bound.at_most(
                f"{link}, % that the advised setting is slower than the fastest", 100 * lost, 100 * _LOST, ".1f"
            )
            for link, lost in _lost(rows).items()
        ],
        {"tune_check": lambda: _check_figure(rows)},
        [described(options.kind)],
    )
    return conclude(results, options)


def _worst(rows: list[Checked]) -> dict[str, float]:
    links = dict.fromkeys(row.link for row in rows)
    return {link: max(abs(row.error) for row in rows if row.link == link) for link in links}


def _lost(rows: list[Checked]) -> dict[str, float]:
    """Return, by link, by how much the advised setting's step was slower than the fastest setting's."""
    found = {}
    for chosen in (row for row in rows if row.advised):
        steps = [
            row.measured_s for row in rows if row.link == chosen.link and not row.choice.startswith(_AS_ONE_JOB)
        ]
        found[chosen.link] = chosen.measured_s / min(steps) - 1
    return found


def _check_link(link: str, port: int, taken: Mapping[str, EncodingCost], shape: Shape) -> Iterator[Checked]:
    from_picture = replace(shape, begins_empty=False)
    with session_with("auto", port) as session:
        predictions = predict(session, shape, taken, measure(session, shape.call_bytes), adapts=True)
        best = advised(predictions)
        jobs = {job: estimate(session, job, best).whole_loop_s / job.steps for job in (shape, from_picture)}
    for each in predictions:
        measured_s = measured_step_s(each.choice, port, shape)
        yield replace(_checked(link, each.choice, each.step_s, measured_s), advised=each is best)
    for job, predicted_s in jobs.items():
        begun = "an empty latent" if job.begins_empty else "a picture"
        yield _checked(link, f"{_AS_ONE_JOB}, from {begun}", predicted_s, measured_whole_s("auto", port, job))


def _checked(link: str, choice: str, predicted_s: float, measured_s: float) -> Checked:
    return Checked(link, choice, predicted_s, measured_s, predicted_s / measured_s - 1)


def _check_figure(rows: list[Checked]) -> Figure:
    links = list(_worst(rows))
    figure, axes = plots.panels(1, len(links), width=3.2, height=2.8)
    for axis, link in zip(axes, links, strict=True):
        shown = [row for row in rows if row.link == link]
        plots.grouped(
            axis,
            [row.choice.replace(", ", ",\n") for row in shown],
            {"predicted": [row.predicted_s for row in shown], "measured": [row.measured_s for row in shown]},
        )
        axis.set(title=link, ylabel="s a step")
    plots.legend(figure, axes[0])
    return figure


if __name__ == "__main__":
    sys.exit(main())
