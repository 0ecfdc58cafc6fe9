"""The options by which a worker is shared with other machines, and the line that it prints for them."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from ..config.address import HTTPS, Address, host_and_port
from ..errors import ConfigError
from ..server.pairing.pairings import DEFAULT_NAME, checked_name
from ..server.pairing.share import Share, open_share


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of a worker that is shared."""
    parser.add_argument(
        "--share",
        nargs="?",
        type=pairing_name,
        const=DEFAULT_NAME,
        metavar="NAME",
        help="let other machines use this worker: listen on all networks with TLS, and print a line to paste "
        "there. Each NAME has a line of its own, which the command pairings can revoke (default: %(const)s)",
    )
    add_share_as(parser)


def add_share_as(parser: argparse.ArgumentParser) -> None:
    """Add the option that says which address a line holds."""
    parser.add_argument(
        "--share-as",
        type=address,
        metavar="HOST[:PORT]",
        help="the address for the line, where it is another than this machine's own, as behind a router or in a "
        "container",
    )


def pairing_name(text: str) -> str:
    """Return a pairing's name from the command line.

    Raises:
        argparse.ArgumentTypeError: it cannot be one.
    """
    try:
        return checked_name(text)
    except ConfigError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def address(text: str) -> Address:
    """Return the address in `HOST` or `HOST:PORT`.

    Raises:
        argparse.ArgumentTypeError: it is none.
    """
    try:
        parsed = Address.parse(f"{HTTPS}://{text}")
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{text}: {error}") from None
    if parsed.path:
        raise argparse.ArgumentTypeError(f"{text}: write HOST or HOST:PORT, and nothing behind it")
    return parsed


def opened(options: argparse.Namespace, folder: Path | None) -> Share | None:
    """Return the share that the options ask for; None for a worker that is not shared.

    Raises:
        ConfigError: it cannot be opened.
    """
    return None if options.share is None else open_share(folder, options.share)


def announce(share: Share, addresses: Sequence[Address]) -> None:
    """Print that a worker is ready, where, and by which line others reach it."""
    print(f"listening on {addresses[0]}")
    print_line(share, addresses)


def print_line(share: Share, addresses: Sequence[Address]) -> None:
    """Print the line of a share for the first of these addresses, and what to do with it."""
    first, *others = (host_and_port(each.host, None) for each in addresses)
    print("\nPaste this line on the other machine, as COMFY_GPU_OFFLOAD_URL. Whoever has it can use this GPU:\n")
    print(share.line(addresses[0]))
    if others:
        print(f"\nIf {first} does not lead here, write another address of this machine there: {', '.join(others)}")
    print(f"\nTo revoke it: comfy-gpu-offload pairings --revoke {share.pairing.name}\n", flush=True)
