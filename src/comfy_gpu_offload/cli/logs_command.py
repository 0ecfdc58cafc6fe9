"""The command `logs`: shows the log of what `up` made."""

from __future__ import annotations

import argparse
import logging
from collections.abc import Iterator

from ..config.findings import checked_settings
from ..errors import ConfigError, RentalError
from ..rental.found import Found, found
from ..rental.pod_log import without
from ..rental.records import Records
from ..rental.runpod_client import runpod_client
from ..runpod.rest.client import RestClient
from ..runpod.rest.logs import LogLine
from .arguments import whole_number

# A log that says nothing for so long has been read to its end.
_QUIET_S = 3.0


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's options."""
    parser.add_argument("name", nargs="?", metavar="NAME", help="as `status` shows it; none for the only one")
    parser.add_argument("--follow", action="store_true", help="go on with what comes, until Ctrl-C")
    parser.add_argument(
        "--lines", type=whole_number(1, 5000), default=200, metavar="N", help="the last ones (default: %(default)s)"
    )


def run(options: argparse.Namespace) -> int:
    """Print the log of a pod, or of an endpoint's workers, without secrets that are known here.

    Raises:
        ConfigError: nothing has such a name, or several could be meant.
        RunPodError: RunPod could not be asked.
    """
    logging.getLogger().setLevel(logging.ERROR)
    settings = checked_settings()
    tokens = [each.token.get_secret_value() for each in Records(settings.rental_folder).all() if each.token]
    with runpod_client(settings) as api:
        key = settings.runpod_api_key
        secrets = [*tokens, *([key.get_secret_value()] if key else [])]
        for line in _log(api, _chosen(api, options.name), options):
            print(f"{line.ts}  {without(line.line, secrets)}".strip(), flush=True)
    return 0


def _chosen(api: RestClient, name: str | None) -> Found:
    ours = [each for each in found(api, ("pod", "endpoint")) if name is None or name in {each.name, each.id}]
    if len(ours) == 1:
        return ours[0]
    if not ours:
        named = "Nothing of yours is rented." if name is None else f"Nothing of yours is named {name:.80}."
        raise ConfigError(named)
    raise ConfigError("There are several, name one: " + ", ".join(each.name for each in ours))


def _log(api: RestClient, of: Found, options: argparse.Namespace) -> Iterator[LogLine]:
    quiet_s = None if options.follow else _QUIET_S
    if of.kind == "pod":
        yield from api.pod_logs(of.id, tail=options.lines, quiet_s=quiet_s)
        return
    workers = api.endpoint_workers(of.id)
    if not workers:
        raise RentalError(f"{of.name} has no worker at present, and so no log; a call starts one.")
    for worker in workers:  # with --follow, the first one's
        yield from api.worker_logs(of.id, worker.id, tail=options.lines, quiet_s=quiet_s)
