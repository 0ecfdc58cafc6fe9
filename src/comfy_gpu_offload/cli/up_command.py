"""The command `up`: rents a GPU at RunPod, waits until a call of its worker works, and writes where it is."""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from ..config.findings import checked_settings
from ..config.settings import Settings
from ..errors import ConfigError, RentalError
from ..protocol.messages import Welcome
from ..rental import client_settings
from ..rental.context import RentalContext
from ..rental.endpoints import EndpointRental
from ..rental.gpu_choice import CLOUDS, Candidate, Cloud, GpuWish, candidates
from ..rental.images import Image, chosen_image
from ..rental.interruptions import Interruptions
from ..rental.model_memory import memory_need
from ..rental.plan import MIN_CUDA, Plan
from ..rental.pods import PodRental
from ..rental.records import Records, Rental
from ..rental.renting import Rentable, Renting
from ..rental.running import Running, running, use
from ..rental.runpod_client import runpod_client
from ..rental.volumes import VolumeWish, limited, new_volume, place_of
from ..runpod.rest.client import RestClient
from ..runpod.rest.schema import GpuOffer
from .arguments import minutes, number, short_text
from .local_comfyui import comfyui_folder, comfyui_release
from .progress_line import ProgressLine

_SHOWN = 6
# In minutes. A worker of an endpoint starts again with the next call; a pod does not.
_POD_IDLE, _ENDPOINT_IDLE, _POD_AT_MOST = 20, 5, 12 * 60


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's options."""
    add = parser.add_argument
    add("--yes", action="store_true", help="do not ask: rent the first GPU that fits")
    add("--model", type=short_text(256), metavar="NAME", help="a model to have room for: a file's name or path")
    add("--memory", type=number(1, 1000), metavar="GB", help="memory that the GPU must have, whatever the model")
    add("--gpu", type=short_text(60), metavar="NAME", help="words of its name, e.g. 4090 or 'RTX A5000'")
    add("--max-price", type=number(0.01, 1000), metavar="DOLLARS", help="an hour, at most")
    add("--cloud", choices=["any", "secure", "community"], default="any", help="RunPod's own machines, or others'")
    add("--region", type=short_text(20), metavar="CODE", help="the beginning of a data centre's id: EU, US-KS")
    add(
        "--volume",
        type=_volume,
        metavar="ID|NAME|new:GB",
        help="a network volume that keeps models, or a new one of that size, which bills until you delete it",
    )
    add("--endpoint", action="store_true", help="make a serverless endpoint, which bills while it works, not a pod")
    add("--image", type=short_text(255), metavar="NAME:TAG", help="an image with the worker; `stock` for RunPod's")
    add(
        "--at-most",
        type=_idle,
        metavar="TIME",
        help="give the pod back after that time, whatever it does, 0 for never (default: 12h)",
    )
    add(
        "--idle-exit",
        type=_idle,
        metavar="TIME",
        help="give it back after that time without a call, 0 for never (default: 20m, of an endpoint's worker 5m)",
    )
    add("--another", action="store_true", help="rent another one although one of yours is running")
    add("--comfyui", type=Path, metavar="PATH", help="the ComfyUI folder here; found by itself around the pack")
    parser.epilog = (
        "The key comes from RUNPOD_API_KEY, in the environment or in .env. Nothing is spent before you say yes. "
        "`comfy-gpu-offload down` gives it back; Ctrl-C before it is ready does so at once."
    )


def run(options: argparse.Namespace) -> int:
    """Rent a worker, and write its address where the client reads it.

    Raises:
        ConfigError: a setting or an option is wrong, or there is nobody to ask.
        RentalError: nothing could be had, or something could not be given back.
        RunPodError: RunPod refused.
    """
    logging.getLogger().setLevel(logging.ERROR)
    if not options.yes and not sys.stdin.isatty():
        raise ConfigError("up asks before it spends money, and there is nobody to ask here: add --yes.")
    settings = checked_settings()
    env_file = client_settings.env_file_for_client()
    records = Records(settings.rental_folder)
    with runpod_client(settings) as api:
        api.check_key()
        if not options.another and (others := running(api, records)):
            return _use_running(others, records, settings, options)
        found, image = _chosen(api, settings, options)
        _say_what_is_made(found[0], image, options)
        if not options.yes and not _agreed("Rent it?", default=False):
            print("Nothing was rented.")
            return 1
        with Interruptions() as interruptions, ProgressLine() as progress:
            context = RentalContext(api, settings, records, progress, interruptions)
            with _with_volume(context, options.volume, found) as (volume_id, there):
                plan = Plan(image.name, image.args, _idle_minutes(options), _at_most(options), volume_id)
                what = _rentable(context, plan, options)
                rental, welcome = Renting(context, what, env_file).rent(there)
    _say_how_to_go_on(rental, welcome, _idle_minutes(options))
    return 0


def _chosen(
    api: RestClient, settings: Settings, options: argparse.Namespace
) -> tuple[tuple[Candidate, ...], Image]:
    """Return the candidates and the image, once the candidates are told to the user."""
    comfyui = comfyui_folder(options.comfyui)
    need = memory_need(options.memory, options.model, [] if comfyui is None else [comfyui / "models"])
    wish = GpuWish(need.gigabytes, options.gpu, options.max_price, options.region)
    image = chosen_image(options.image, comfyui_release(options.comfyui), None, settings.ca_file)
    if options.endpoint and image.installs:
        raise ConfigError(
            "--endpoint needs an image that holds the worker, since each cold start would install it anew, and the "
            "project's image of this release is not published. Add --image NAME:TAG, or rent a pod."
        )
    found = candidates(_offers(api, options), wish)
    if options.volume is not None and options.volume.name is not None:
        found = limited(found, place_of(api, options.volume.name).data_centre)
    print(f"A GPU with {need.gigabytes:.0f} GB ({need.reason}). In stock, the cheapest first:")
    for each in found[:_SHOWN]:
        print(f"  {each}, stock {each.availability.value.lower()}")
    return found, image


def _offers(api: RestClient, options: argparse.Namespace) -> dict[Cloud | None, list[GpuOffer]]:
    if options.endpoint:
        return {None: api.gpus("SERVERLESS", min_cuda=MIN_CUDA)}
    clouds = [each for each in CLOUDS if options.cloud in {"any", each.lower()}]
    return {cloud: api.gpus("POD", cloud=cloud, min_cuda=MIN_CUDA) for cloud in clouds}


@contextmanager
def _with_volume(
    context: RentalContext, wish: VolumeWish | None, found: Sequence[Candidate]
) -> Iterator[tuple[str | None, Sequence[Candidate]]]:
    """Give the volume's id, and the candidates where it is."""
    if wish is None:
        yield None, found
    elif wish.new_gb is None:
        yield place_of(context.api, str(wish.name)).id, found
    else:
        with new_volume(context, wish.new_gb, found) as place:
            yield place.id, limited(found, place.data_centre)


def _rentable(context: RentalContext, plan: Plan, options: argparse.Namespace) -> Rentable:
    if options.endpoint:
        return EndpointRental(context, plan, options.model)
    return PodRental(context, plan, options.model)


def _say_what_is_made(first: Candidate, image: Image, options: argparse.Namespace) -> None:
    print(f"Image: {image.name}, {image.about}.")
    if options.volume is not None and options.volume.new_gb:
        print(
            f"This makes a network volume of {options.volume.new_gb} GB, which bills about "
            f"${options.volume.dollars_a_month:.2f} a month until `comfy-gpu-offload down --volumes`."
        )
    if options.endpoint:
        print(
            f"This makes one serverless endpoint. Its worker bills ${first.dollars_an_hour:.2f} an hour while it "
            f"runs, up to {_idle_minutes(options)} minutes beyond the last call; otherwise nothing bills."
        )
        return
    idle = _idle_minutes(options)
    ends = [f"{idle} minutes pass without a call"] if idle else []
    most = _at_most(options)
    ends += [f"{most / 60:g} hours are over"] if most else []
    print(
        f"This makes one pod, the first of these that can be had. It bills ${first.dollars_an_hour:.2f} an hour "
        f"(the first) until `comfy-gpu-offload down`{''.join(f', or {each}' for each in ends)}."
    )


def _use_running(
    others: Sequence[Running], records: Records, settings: Settings, options: argparse.Namespace
) -> int:
    """Offer what runs already in place of another one; return the exit status.

    Raises:
        RentalError: nobody here knows its token.
    """
    for each in others:
        price = "" if each.found.dollars_an_hour is None else f", ${each.found.dollars_an_hour:.2f} an hour"
        print(f"{each.found.name} runs already: {each.found.machine}, {each.found.state}{price}.")
    usable = next((each.rental for each in others if each.rental is not None), None)
    if usable is None:
        name = others[0].found.name
        raise RentalError(
            f"{name} belongs to an `up` that is not done or was killed, or its record is lost: its token is not "
            f"known here. Give it back with `comfy-gpu-offload down {name}`, or rent another one with --another."
        )
    if not options.yes and not _agreed(f"Use {usable.name}?", default=True):
        print("Nothing was changed. --another rents another one.")
        return 1
    with ProgressLine() as progress:
        progress.stage(f"a call of {usable.name}")
        used, welcome = use(usable, records, settings, options.model)
    _say_how_to_go_on(used, welcome, 0)
    return 0


def _say_how_to_go_on(rental: Rental, welcome: Welcome, idle_minutes: int) -> None:
    print(f"Ready: {rental.name}, {rental.machine}. The worker answers, on {welcome.device}.")
    print(f"Its address is in {rental.env_file}; ComfyUI uses it from the next prompt on.")
    for name in client_settings.outvoted():
        print(f"But {name} is set in the environment too, which counts more: unset it, and restart ComfyUI.")
    if not any(entry.is_model for entry in welcome.models):
        print("It has no models yet: `comfy-gpu-offload fetch hf:ORG/NAME/FILE` has the worker fetch one.")
    itself = rental.kind == "pod" and idle_minutes
    print(
        "To give it back: comfy-gpu-offload down"
        + (f" (it does so itself after {idle_minutes} minutes without a call)" if itself else "")
    )


def _agreed(question: str, *, default: bool) -> bool:
    try:
        answer = input(f"{question} [{'Y/n' if default else 'y/N'}] ").strip().lower()
    except EOFError:
        return False
    return default if not answer else answer in {"y", "yes"}


def _idle(text: str) -> int:
    return 0 if text.strip() == "0" else minutes(text)


def _idle_minutes(options: argparse.Namespace) -> int:
    """Return the minutes without a call after which what is made ends; 0 for never."""
    if options.idle_exit is None:
        return _ENDPOINT_IDLE if options.endpoint else _POD_IDLE
    return int(options.idle_exit)


def _at_most(options: argparse.Namespace) -> int | None:
    """Return the minutes after which a pod ends in any case; None for never, and for an endpoint."""
    if options.at_most is None:
        return None if options.endpoint else _POD_AT_MOST
    return int(options.at_most) or None


def _volume(text: str) -> VolumeWish:
    try:
        return VolumeWish.parse(short_text(80)(text))
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None
