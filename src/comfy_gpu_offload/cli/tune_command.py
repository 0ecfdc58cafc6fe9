"""``tune``: calculate the seconds, bytes and dollars of a picture over a link, for a model and a GPU."""

from __future__ import annotations

import argparse

from . import price_lines


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    price_lines.add_arguments(parser)


def run(options: argparse.Namespace) -> int:
    """Run the command; return its exit status."""
    return price_lines.calculate(options)
