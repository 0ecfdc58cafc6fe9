"""The command `pairings`: lists the pairings of this machine's workers, adds one, or revokes one."""

from __future__ import annotations

import argparse

from ..config.findings import checked_settings
from ..config.private_files import private_folder
from ..config.settings import Settings
from ..server.pairing.pairings import Pairings
from ..server.pairing.share import EVERYWHERE, open_share, shared_addresses
from . import sharing

_PORT = 8288


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's options."""
    action = parser.add_mutually_exclusive_group()
    action.add_argument(
        "--add",
        type=sharing.pairing_name,
        metavar="NAME",
        help="print the line of this pairing; make it if there is none. Workers that are shared take it at once",
    )
    action.add_argument(
        "--revoke",
        type=sharing.pairing_name,
        metavar="NAME",
        help="let nobody in by the line of this pairing any more, also at workers that run",
    )
    sharing.add_share_as(parser)
    parser.epilog = (
        "The pairings are those of all workers that this user starts with --share on this machine. For a worker on "
        f"another port than {_PORT}, --add takes --share-as HOST:PORT."
    )


def run(options: argparse.Namespace) -> int:
    """List the pairings, or add or revoke one.

    Raises:
        ConfigError: the folder cannot be used, or there is no such pairing.
    """
    settings = checked_settings()
    if options.add is not None:
        share = open_share(settings.pairing_folder, options.add)
        sharing.print_line(share, shared_addresses(EVERYWHERE, _PORT, options.share_as))
    elif options.revoke is not None:
        Pairings(private_folder(settings.pairing_folder)).revoke(options.revoke)
        print(f"{options.revoke} is revoked: nobody is let in by its line any more.")
    else:
        _list(settings)
    return 0


def _list(settings: Settings) -> None:
    folder = private_folder(settings.pairing_folder)
    pairings = Pairings(folder).all()
    width = max((len(each.name) for each in pairings), default=0)
    for each in pairings:
        print(f"{each.name:<{width}}  made {each.made.astimezone():%Y-%m-%d %H:%M}")
    count = len(pairings)
    print(f"{count or 'no'} {'pairing' if count == 1 else 'pairings'}, kept in {folder}")
