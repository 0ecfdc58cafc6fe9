"""Measure the link to the configured worker and this machine's codecs, and say what to set.

    python benchmarks/tune.py                     # the worker that the environment and .env name
    python benchmarks/tune.py --url http://127.0.0.1:8288 --compute 0.4 --write
    python benchmarks/tune.py --check             # its predictions against measured runs on four emulated links

The step is predicted as compute + coding on both sides + round trip + bytes / bandwidth, with as many bytes as a
run of a trained model moves with each setting, prediction included (see step_predictions.py). Where the connection
idles while the worker computes, its transfers are measured after pauses as long instead, because they begin slowly.
The worker is taken to code as fast as this machine. A run as one job is predicted for the bytes by which the node's
`auto` decides. A setting is advised in place of `auto` only if it gains more than measurements differ. `--check`
exits with 1 where a prediction is off by more than 15 % of the step, or the advised setting is over 5 % slower than
the fastest.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import torch

sys.path.insert(0, str(Path(__file__).parent))
import arguments
import plots
from comfy_gpu_offload.client.encoding.step_time import StepCost
from comfy_gpu_offload.config.env_file import write_settings
from comfy_gpu_offload.config.settings import given_settings, load_settings
from comfy_gpu_offload.errors import OffloadError
from emulated_link import best_kind, described, emulated
from mosaic import mosaic_worker
from results import Bound, Results, Table, conclude
from step_predictions import (
    Choice,
    Prediction,
    Shape,
    advice,
    choices_of,
    choices_over,
    costs,
    measured_step_s,
    measured_whole_s,
    predict,
    predicted_whole_s,
)

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_VARIABLE = "COMFY_GPU_OFFLOAD_COMPRESSION"
_CHECK_LINKS = ("20/100/100", "40/20/100", "50/100/100", "80/50/200")
_BOUND = 0.15
# What following the advice may cost.
_LOST = 0.05
_AS_ONE_JOB = "one job, a step"
_DTYPES = {"bfloat16": torch.bfloat16, "float16": torch.float16, "float32": torch.float32}
_COLUMNS = {
    "compression": "choice",
    "which is": "way",
    "connection": "connection",
    "KB up": "bytes_up 1e-3 .1f",
    "KB down": "bytes_down 1e-3 .1f",
    "coding ms": "coding_s 1e3 .1f",
    "network ms": "network_s 1e3 .0f",
    "step ms": "step_s 1e3 .0f",
    "± ms": "spread_s 1e3 .1f",
    "as one job, a step": "whole_s 1e3 .0f",
}


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
    """Print what to set, or with `--check` how well that is predicted. Exit status 1 if a bound is not held."""
    options = _options()
    shape = Shape(
        tuple(options.latent),
        _DTYPES[options.dtype],
        options.compute,
        options.steps,
        options.seed,
        begins_empty=options.start == "empty",
    )
    if options.check:
        return _check(shape, options)
    try:
        settings = given_settings(url=options.url, token=options.token) if options.url else load_settings()
        choices = choices_of(settings)
        predictions = predict(choices, costs(shape), shape)
    except OffloadError as error:
        print(error, file=sys.stderr)
        return 1
    title = f"{tuple(options.latent)} in {options.dtype}, {options.compute:g} s of compute, {options.steps} steps"
    rows = [{**vars(each), "connection": "kept warm" if each.warm else "idles"} for each in predictions]
    results = Results(
        "tune", predictions, [Table.of(title, _COLUMNS, rows)], plots={"tune": lambda: _figure(predictions)}
    )
    status = conclude(results, options)
    _advise(advice(predictions), options)
    return status


def _advise(best: Prediction, options: argparse.Namespace) -> None:
    print(f"\nSet {_VARIABLE}={best.choice}")
    faster = "as one job (mode `whole loop`)" if best.whole_s < best.step_s else "a call a step"
    print(f"Faster in the node Remote Sampler: {faster}; its mode `auto` measures that by itself.")
    if not options.write:
        return
    write_settings(options.env_file, {_VARIABLE: best.choice})
    print(f"{options.env_file} has it now.")
    if _VARIABLE in os.environ:
        print(f"{_VARIABLE} is also set in this environment, which counts more than the file.")


def _options() -> argparse.Namespace:
    parser = arguments.parser(__doc__, seed_of="the run's noise")
    parser.add_argument("--url", help="a worker, in place of the configured one")
    parser.add_argument("--token", help="the token of that worker")
    parser.add_argument(
        "--latent", type=arguments.positive, nargs="+", default=[1, 16, 128, 128], help="(default: Flux at 1024²)"
    )
    parser.add_argument("--dtype", choices=_DTYPES, default="bfloat16", help="of the model (default: %(default)s)")
    parser.add_argument(
        "--compute", type=arguments.seconds, default=0.6, help="seconds of a model call (default: %(default)s)"
    )
    parser.add_argument("--steps", type=arguments.positive, default=20, help="of a run (default: %(default)s)")
    parser.add_argument(
        "--start",
        choices=["empty", "picture"],
        default="empty",
        help="what a run begins with: an empty latent, or a picture's (img2img; default: %(default)s)",
    )
    parser.add_argument("--write", action="store_true", help="put what to set into the .env file")
    parser.add_argument("--env-file", type=Path, default=Path(".env"), help="(default: %(default)s here)")
    parser.add_argument(
        "--check", action="store_true", help="hold predictions to measured steps, over emulated links"
    )
    parser.add_argument(
        "--link",
        type=arguments.link,
        nargs="+",
        default=list(map(arguments.link, _CHECK_LINKS)),
        help="for --check: MS/MBIT/MBIT",
    )
    parser.add_argument("--kind", choices=["tun", "threads"], default=best_kind(), help="of link emulation")
    options = parser.parse_args()
    if options.write:
        try:
            arguments.output_file()(str(options.env_file))
        except argparse.ArgumentTypeError as error:
            parser.error(f"--env-file: {error}")
    return options


def _check(shape: Shape, options: argparse.Namespace) -> int:
    rows: list[Checked] = []
    with ExitStack() as stack:
        port = int(stack.enter_context(mosaic_worker(shape.compute_s)).rsplit(":", 1)[1])
        taken = costs(shape)
        for link in arguments.progress(options.link, unit="link"):
            with emulated(link, port, options.kind) as near:
                rows += _check_link(str(link), choices_over(near), taken, shape)
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
    for advised in (row for row in rows if row.advised):
        steps = [
            row.measured_s for row in rows if row.link == advised.link and not row.choice.startswith(_AS_ONE_JOB)
        ]
        found[advised.link] = advised.measured_s / min(steps) - 1
    return found


def _check_link(link: str, choices: list[Choice], taken: dict[str, StepCost], shape: Shape) -> Iterator[Checked]:
    predictions = predict(choices, taken, shape)
    advised = advice(predictions)
    for choice, each in zip(choices, predictions, strict=True):
        measured_s = measured_step_s(choice, shape)
        yield replace(_checked(link, each.choice, each.step_s, measured_s), advised=each is advised)
    for job in (replace(shape, begins_empty=True), replace(shape, begins_empty=False)):
        begun = "an empty latent" if job.begins_empty else "a picture"
        predicted_s = predicted_whole_s(choices[0], taken[advised.way], job)
        yield _checked(link, f"{_AS_ONE_JOB}, from {begun}", predicted_s, measured_whole_s(choices[0], job))


def _checked(link: str, choice: str, predicted_s: float, measured_s: float) -> Checked:
    return Checked(link, choice, predicted_s, measured_s, predicted_s / measured_s - 1)


def _figure(predictions: list[Prediction]) -> Figure:
    figure, (axis,) = plots.panels(1, 1, width=6.0, height=2.2)
    names = [each.choice for each in predictions]
    plots.bars(axis, names, [each.step_s for each in predictions], colours=plots.RED)
    axis.barh(range(len(names)), [each.step_s - each.network_s for each in predictions], color=plots.GREEN)
    compute = [each.step_s - each.network_s - each.coding_s for each in predictions]
    axis.barh(range(len(names)), compute, color=plots.BLUE)
    axis.set(xlabel="s a step, as predicted: compute (blue), coding (green), network (red)")
    return figure


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
