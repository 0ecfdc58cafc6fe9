"""The options that every benchmark has, and its progress bar.

    parser = arguments.parser(__doc__, seed_of="all noise")
    parser.add_argument("--calls", type=arguments.positive, default=200)
    for size in arguments.progress(sizes, unit="size"):
        …

What a benchmark then found it hands to `results.conclude`.
"""

from __future__ import annotations

import argparse
import importlib.util
from collections.abc import Callable, Collection, Iterable
from pathlib import Path
from typing import Any, TypeVar

from tqdm import tqdm

from comfy_gpu_offload.cli import arguments as of_commands
from comfy_gpu_offload.cli.arguments import number, output_file, output_folder, whole_number
from comfy_gpu_offload.tuning.link import Link

Item = TypeVar("Item")

positive = whole_number(1, 1_000_000_000)
"""How often, or how many, of anything."""

seconds = number(0, 3600)
"""How long something takes, an hour at most."""


def link(text: str) -> Link:
    """Return the link that ``MS/MBIT/MBIT`` describes: round trip, up, down.

    Raises:
        argparse.ArgumentTypeError: it is not of that form, no link is like that, or it loses packets, which links
            are not emulated with.
    """
    read = of_commands.link(text)
    if read.loss:
        raise argparse.ArgumentTypeError(f"{text}: emulated links lose nothing; give MS/MBIT/MBIT, as 40/20/100")
    return read


def pair(names: Collection[str], read: Callable[[str], Item]) -> Callable[[str], tuple[str, Item]]:
    """Return a reader of ``NAME=VALUE`` with one of `names`, whose value `read` takes."""

    def parse(text: str) -> tuple[str, Item]:
        name, equals, value = text.partition("=")
        if name not in names or not equals:
            raise argparse.ArgumentTypeError(f"{text!r}: give one of {', '.join(names)}, =, and the value")
        return name, read(value)

    return parse


def parser(description: str | None, *, seed: int = 0, seed_of: str = "all noise") -> argparse.ArgumentParser:
    """Return a parser with `--help`, `--seed`, `--json` and `--output`. `description`: the module's docstring."""
    made = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument(
        "--seed", type=whole_number(0, 2**63 - 1), default=seed, help=f"of {seed_of} (default: %(default)s)"
    )
    written = output_file(makes_folder=True)
    made.add_argument("--json", type=written, metavar="FILE", help="also write the rows here, as JSON")
    made.add_argument(
        "--output", type=_plots_folder, metavar="DIR", help="also draw plots here, as PNG; made if missing"
    )
    return made


def _plots_folder(text: str) -> Path:
    """Return the path of a folder for plots.

    Raises:
        argparse.ArgumentTypeError: nothing can be written there, or what draws is missing. It is said before
            anything is measured.
    """
    if importlib.util.find_spec("matplotlib") is None:
        raise argparse.ArgumentTypeError("plots need matplotlib, which is not installed: pip install matplotlib")
    return output_folder(text)


def progress(items: Iterable[Item] | None = None, **options: Any) -> tqdm[Item]:
    """Return a progress bar on standard error if that is a terminal, removed when done; as tqdm's."""
    return tqdm(items, **{"leave": False, "dynamic_ncols": True, "disable": None, **options})
