"""``tune``: predict a step's time through the configured worker with each compression setting, and say what to set.

With ``--link`` nothing is measured: `price_lines` calculates what a picture takes and costs over a link.
"""

from __future__ import annotations

import argparse
import logging
import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass

from ..client.connect import connect_from
from ..client.offload_estimate import calls_of, draws_noise_each_step
from ..client.session import Session
from ..config.endpoint import Direct, configured
from ..config.settings import Settings, load_settings
from ..io import codecs
from ..tuning import saved_setting
from ..tuning.advice import DEFAULT, advised
from ..tuning.encoding_costs import EncodingCost, Shape, costs
from ..tuning.gpus import GPUS, UNCERTAINTY, named
from ..tuning.link_measurement import MeasuredLink, measure
from ..tuning.models import MODELS, ImageModel
from ..tuning.step_prediction import Prediction, estimate, predict
from . import price_lines
from .progress_line import ProgressLine

_MODEL = "flux"
# Without a GPU that is known and without --call.
_CALL_S = 0.6


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's options."""
    parser.add_argument("--write", action="store_true", help="put what to set into the .env file that is read")
    price_lines.add_arguments(parser)
    parser.epilog = (
        "Without --link it measures the line to the configured worker, then the codecs on this machine. Exit "
        "status: 0, 1 if the worker cannot be asked, 2 if an option or a setting is wrong, 130 after Ctrl-C."
    )


def run(options: argparse.Namespace) -> int:
    """Run the command; return its exit status.

    Raises:
        OffloadError: the worker cannot be asked, or a file cannot be written.
    """
    if options.link is not None:
        if options.write:
            print("--write needs a worker to measure: leave --link out.", file=sys.stderr)
            return 2
        return price_lines.calculate(options)
    logging.getLogger().setLevel(logging.ERROR)
    try:
        _tune(options, load_settings())
    except KeyboardInterrupt:
        print("\nStopped; nothing was written.", file=sys.stderr, flush=True)
        raise
    return 0


def _tune(options: argparse.Namespace, settings: Settings) -> None:
    is_direct = isinstance(configured(settings), Direct)
    print("Asking the worker …", flush=True)
    with connect_from(settings, notify=_say) as session:
        session.probe()
        model = MODELS[options.model or _MODEL]
        shape = _shape(options, model, session)
        link = _measured(session, shape) if session.carrier.is_shared else None
        if link is None:
            print(f"Line: {session.carrier.name}, which idle between calls: each setting is measured after pauses.")
        taken = _coding(shape)
        predictions = predict(session, shape, taken, link, adapts=is_direct)
        best = advised(predictions)
        run_s = estimate(session, shape, best)
    _show(predictions)
    print(
        f"\nA picture: {run_s.each_step_s:.1f} s with a call each step, {run_s.whole_loop_s:.1f} s as one job "
        "(Remote Sampler). Prompts and the VAE are left out."
    )
    _advise(best, predictions, settings, write=options.write)


def _say(text: str) -> None:
    print(f"  {text}", flush=True)


def _shape(options: argparse.Namespace, model: ImageModel, session: Session) -> Shape:
    """Return the shape of the run; print what it is, and where the seconds of its model calls come from."""
    compute = _compute(options, model, session.welcome.device)
    shape = Shape.of(
        model,
        compute.seconds,
        calls_of(options.sampler, options.steps or model.steps),
        begins_empty=not options.img2img,
        has_noise=draws_noise_each_step(options.sampler),
    )
    print(f"{model.title}, {options.steps or model.steps} steps of {options.sampler}")
    print(f"Model call: {compute.seconds:.3g} s, {compute.source}", flush=True)
    return shape


@dataclass(frozen=True)
class _Compute:
    seconds: float
    source: str


def _compute(options: argparse.Namespace, model: ImageModel, device: str) -> _Compute:
    if options.call is not None:
        return _Compute(options.call, "as given")
    gpu = named(device) if options.gpu is None else GPUS[options.gpu]
    if gpu is None:
        return _Compute(_CALL_S, f"assumed: the worker's {device} is not listed, so give it with --call or --gpu")
    return _Compute(
        gpu.call_s(model),
        f"estimated for the {gpu.title}; it may be {UNCERTAINTY:g} times more or less: give a measured one with "
        "--call",
    )


def _measured(session: Session, shape: Shape) -> MeasuredLink:
    """Return the measured link, printed."""
    link = measure(session, shape.call_bytes)
    middle = link.median
    print(
        f"Line: {middle.round_trip_s * 1e3:.1f} ms, {middle.up * 8e-6:.1f} Mbit/s up, "
        f"{middle.down * 8e-6:.1f} Mbit/s down; equal transfers differed by {link.swing:.0%}",
        flush=True,
    )
    if link.is_disturbed:
        print(
            "  ??  Something else used the line, or a machine was busy, so these figures may be off: run it again "
            "when the line is quiet.",
            flush=True,
        )
    return link


def _coding(shape: Shape) -> Mapping[str, EncodingCost]:
    with ProgressLine() as progress:
        progress.stage("measuring how fast this machine codes")
        return costs(shape, progress.detail)


def _show(predictions: list[Prediction]) -> None:
    heads = ("KB up", "KB down", "coding ms", "network ms", "step ms", "± ms")
    print(f"\n{'compression':14}" + "".join(f"{head:>12}" for head in heads))
    for each in predictions:
        cells = (
            f"{each.bytes_up / 1e3:.1f}",
            f"{each.bytes_down / 1e3:.1f}",
            f"{each.coding_s * 1e3:.1f}",
            f"{each.network_s * 1e3:.0f}",
            f"{each.step_s * 1e3:.0f}",
            f"{each.spread_s * 1e3:.0f}",
        )
        print(f"{each.choice:14}" + "".join(f"{cell:>12}" for cell in cells))


def _advise(best: Prediction, predictions: list[Prediction], settings: Settings, *, write: bool) -> None:
    name, now = saved_setting.VARIABLE, settings.compression
    if best.choice == DEFAULT:
        print(
            f"{name}={DEFAULT}: no setting gains more than measurements differ, and {DEFAULT} adapts to the line."
        )
    else:
        default = next(each for each in predictions if each.choice == DEFAULT)
        gained_ms = (default.step_s - best.step_s) * 1e3
        print(f"{name}={best.choice}: {gained_ms:.0f} ms a step faster than {DEFAULT}.")
    if now not in {DEFAULT, "none"} and not codecs.wanted(now).lossless:
        print(f"{name}={now} is set, which is lossy: that is your choice, and stays.")
        return
    if now == best.choice:
        print("That is what is set now.")
        return
    file = saved_setting.file_of_setting()
    if not write:
        print(f"Set now: {now}. `comfy-gpu-offload tune --write` puts it into {file}.")
    elif saved_setting.save(file, best.choice):
        print(f"{file} has it now, in place of {now}.")
    else:
        print(f"{file} has it already.")
    if os.environ.get(name):
        print(f"{name}={os.environ[name]} is also set in the environment, which counts more than a file.")
