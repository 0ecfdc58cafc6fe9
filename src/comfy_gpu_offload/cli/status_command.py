"""The command `status`: lists what `up` made and what it costs."""

from __future__ import annotations

import argparse
import logging
import sys
from datetime import UTC, datetime
from time import sleep

from ..config.findings import checked_settings
from ..errors import OffloadError
from ..rental.records import Records
from ..rental.runpod_client import runpod_client
from ..rental.spending import Spending, spending
from ..runpod.rest.client import RestClient
from .arguments import whole_number

_HEAD = ("name", "kind", "where", "state", "$/hour", "so far", "for")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's options."""
    parser.add_argument(
        "--watch",
        type=whole_number(2, 3600),
        nargs="?",
        const=15,
        metavar="SECONDS",
        help="show it again every so many seconds (default: 15), until Ctrl-C",
    )
    parser.epilog = (
        "It finds what `up` made by the names at RunPod, also what no record on this machine remembers. So far is "
        "RunPod's bill, which lags behind."
    )


def run(options: argparse.Namespace) -> int:
    """Print a line for each rental, and their sum.

    Raises:
        ConfigError: there is no key.
        RunPodError: RunPod could not be asked; with --watch it is asked again.
    """
    logging.getLogger().setLevel(logging.ERROR)
    settings = checked_settings()
    records = Records(settings.rental_folder)
    with runpod_client(settings) as api:
        while True:
            try:
                text = _table(api, records)
            except OffloadError as error:
                if options.watch is None:
                    raise
                text = str(error)
            if options.watch is None:
                print(text)
                return 0
            _show_again(text)
            sleep(options.watch)


def _show_again(text: str) -> None:
    clear = "\x1b[H\x1b[2J" if sys.stdout.isatty() else ""
    print(f"{clear}{datetime.now():%H:%M:%S}\n{text}", flush=True)


def _table(api: RestClient, records: Records) -> str:
    known = records.all()
    ours = spending(api, known)
    lines = _lines([_HEAD, *(_row(each) for each in ours)]) if ours else ["Nothing of yours is rented."]
    prices = [each.found.dollars_an_hour or 0.0 for each in ours]
    if ours:
        lines.append(f"in all ${sum(prices):.3f} an hour. To give it back: comfy-gpu-offload down [NAME]")
    there = {each.found.name for each in ours}
    for rental in known:
        if rental.name not in there:
            lines.append(
                f"{rental.name} is not at RunPod any more. `comfy-gpu-offload down {rental.name}` forgets it and "
                "clears its address from .env."
            )
    return "\n".join(lines)


def _row(each: Spending) -> tuple[str, ...]:
    found = each.found
    return (
        found.name,
        found.kind,
        found.machine,
        found.state,
        "?" if found.dollars_an_hour is None else f"{found.dollars_an_hour:.3f}",
        "not yet billed" if each.so_far is None else f"${each.so_far:.2f}",
        "" if found.since is None else _age(found.since),
    )


def _age(since: datetime) -> str:
    begun = since if since.tzinfo else since.replace(tzinfo=UTC)
    minutes = max(0, int((datetime.now(UTC) - begun).total_seconds() // 60))
    return f"{minutes // 60} h {minutes % 60:02} min" if minutes >= 60 else f"{minutes} min"


def _lines(rows: list[tuple[str, ...]]) -> list[str]:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
