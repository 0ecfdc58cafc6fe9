"""The command `down`: gives back what `up` rented, also where nothing remembers it but RunPod."""

from __future__ import annotations

import argparse
import logging

from ..config.findings import checked_settings
from ..rental.context import RentalContext
from ..rental.ending import Ended, chosen, end_all, raised_together
from ..rental.interruptions import Interruptions
from ..rental.records import Records
from ..rental.runpod_client import runpod_client
from .progress_line import ProgressLine


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's options."""
    parser.add_argument("names", nargs="*", metavar="NAME", help="as `status` shows it; none for the only one")
    parser.add_argument("--all", action="store_true", help="all pods and endpoints that `up` made")
    parser.add_argument("--volumes", action="store_true", help="its volumes too: the models on them are lost")
    parser.epilog = (
        "It finds what `up` made by the names at RunPod, so it works from any machine with the same key. It "
        "touches nothing that others made."
    )


def run(options: argparse.Namespace) -> int:
    """Delete what is named, and put back what stood in the `.env` before.

    Raises:
        ConfigError: nothing has such a name, or several could be meant.
        StillBillingError: something could not be deleted.
        RunPodError: RunPod could not be asked.
    """
    logging.getLogger().setLevel(logging.ERROR)
    settings = checked_settings()
    records = Records(settings.rental_folder)
    with runpod_client(settings) as api:
        endings = chosen(api, records, options.names, everything=options.all, volumes=options.volumes)
        if not endings:
            print("Nothing of yours is rented.")
            return 0
        with Interruptions() as interruptions, ProgressLine() as progress:
            context = RentalContext(api, settings, records, progress, interruptions)
            ended, errors = end_all(context, endings)
    for each in ended:
        print(_said_of(each))
    raised_together(errors)
    return 0


def _said_of(ended: Ended) -> str:
    rental = ended.rental
    cost = "" if ended.so_far is None else f" It cost ${ended.so_far:.2f}, by the bill so far."
    if not ended.was_there:
        said = f"{rental.name} was gone already."
    else:
        said = f"{rental.name} ({rental.kind}) is given back, and bills no more."
    settings = f" {rental.env_file} is as it was before." if ended.settings_put_back else ""
    return said + cost + settings
