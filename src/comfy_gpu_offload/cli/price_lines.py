"""The calculator of ``tune``: what pictures take and cost over a link that is given, without a worker."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator

from ..tuning.gpus import GPUS, OWN, UNCERTAINTY
from ..tuning.models import MODELS
from ..tuning.picture_cost import PictureCost, Plan, costs
from .arguments import link, number, whole_number

# Where none is named.
_GPU = "4090"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of the calculator, which `calculate` reads."""
    picture = parser.add_argument_group("the picture")
    picture.add_argument("--model", choices=MODELS, help="the model (measured with a worker: flux by default)")
    picture.add_argument("--steps", type=whole_number(1, 10_000), help="of a run (default: the model's usual ones)")
    picture.add_argument("--sampler", default="euler", help="as ComfyUI names it (default: %(default)s)")
    picture.add_argument("--img2img", action="store_true", help="begin with a picture, not with an empty latent")
    picture.add_argument("--gpu", choices=GPUS, help="of the worker (default: the one it has, or a 4090)")
    picture.add_argument(
        "--call",
        type=number(0, 3600),
        metavar="SECONDS",
        help="of a model call at the worker, in place of the estimate",
    )
    group = parser.add_argument_group("calculate without a worker")
    group.add_argument(
        "--link", type=link, metavar="MS/MBIT/MBIT", help="round trip, up, down, as 40/20/100; needs --model"
    )
    group.add_argument(
        "--price", type=number(0, 1000), metavar="DOLLARS", help="an hour (default: of RunPod's serverless workers)"
    )
    group.add_argument(
        "--idle",
        type=number(0, 86_400),
        default=60,
        metavar="SECONDS",
        help="for which the worker is paid after the last picture (default: %(default)s)",
    )
    group.add_argument("--warm", action="store_true", help="the worker runs already and has the model loaded")
    group.add_argument("--own", choices=OWN, default="cpu", help="what this machine has (default: %(default)s)")


def calculate(arguments: argparse.Namespace) -> int:
    """Print what a picture takes and costs, each way; return the exit status.

    2 if the link or the model is missing.
    """
    if arguments.link is None or arguments.model is None:
        missing = "--link" if arguments.link is None else "--model"
        print(f"A calculation needs {missing} too: tune --link 40/20/100 --model flux", file=sys.stderr)
        return 2
    plan = _plan(arguments)
    for line in lines(plan):
        print(line)
    return 0


def lines(plan: Plan) -> Iterator[str]:
    """Yield the lines of a calculation: what it is for, a table, and what it assumes."""
    yield f"{plan.model.title}, {plan.steps} steps of {plan.sampler}, {plan.gpu.title}, {plan.link}"
    yield ""
    heads = ("first s", "next s", "MB up", "MB down", "first $", "next $")
    yield f"{'':26}" + "".join(f"{head:>10}" for head in heads)
    for cost in costs(plan):
        yield _row(cost)
    yield ""
    if plan.compute_s is None:
        yield (
            f"A model call is estimated at {plan.call_s:.3g} s, not measured: it may be {UNCERTAINTY:g} times more "
            "or less. Give a measured one with --call."
        )
    else:
        yield f"A model call takes {plan.call_s:.3g} s, as given."
    if plan.own is not None:
        own_s = plan.own.call_s(plan.model)
        yield f"This machine alone: {plan.own.title}, {own_s:.3g} s a call, likewise estimated."
    yield _first(plan)
    if plan.model.network_gb > plan.gpu.memory_gb:
        yield (
            f"The model's {plan.model.network_gb:g} GB do not fit into the {plan.gpu.memory_gb} GB of the "
            f"{plan.gpu.title}: use an fp8 or GGUF file, or a larger GPU."
        )


def _first(plan: Plan) -> str:
    start = f"{plan.cold_start_s:.0f} s of cold start (estimated) and " if plan.cold else ""
    paid = f"{start}{plan.idle_s:g} s of idle worker, at ${plan.dollars_an_hour:.2f} an hour"
    return (
        f"Dollars of a first picture include {paid}. Its seconds do not. Encoding of prompts and the VAE are left "
        "out each way."
    )


def _row(cost: PictureCost) -> str:
    return (
        f"{cost.way:26}{cost.first_s:10.1f}{cost.next_s:10.1f}{cost.up / 1e6:10.2f}{cost.down / 1e6:10.2f}"
        f"{cost.first_dollars:10.4f}{cost.next_dollars:10.4f}"
    )


def _plan(arguments: argparse.Namespace) -> Plan:
    model, gpu = MODELS[arguments.model], GPUS[arguments.gpu or _GPU]
    return Plan(
        model=model,
        gpu=gpu,
        link=arguments.link,
        sampler=arguments.sampler,
        steps=arguments.steps or model.steps,
        dollars_an_hour=gpu.dollars_an_hour if arguments.price is None else arguments.price,
        own=OWN[arguments.own],
        idle_s=arguments.idle,
        cold=not arguments.warm,
        is_empty=not arguments.img2img,
        compute_s=arguments.call,
    )
