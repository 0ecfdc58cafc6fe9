"""The options that every benchmark has, and its progress bar.

    parser = arguments.parser(__doc__, seed_of="all noise")
    parser.add_argument("--calls", type=arguments.positive, default=200)
    for size in arguments.progress(sizes, unit="size"):
        …

What a benchmark then found it hands to `results.conclude`.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterable
from typing import Any, TypeVar

from tqdm import tqdm

from comfy_gpu_offload.cli.arguments import output_file, output_folder, whole_number

Item = TypeVar("Item")

positive = whole_number(1, 1_000_000_000)
"""How often, or how many, of anything."""


def parser(description: str | None, *, seed: int = 0, seed_of: str = "all noise") -> argparse.ArgumentParser:
    """Return a parser with `--help`, `--seed`, `--json` and `--output`. `description`: the module's docstring."""
    made = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument(
        "--seed", type=whole_number(0, 2**63 - 1), default=seed, help=f"of {seed_of} (default: %(default)s)"
    )
    written = output_file(makes_folder=True)
    made.add_argument("--json", type=written, metavar="FILE", help="also write the rows here, as JSON")
    made.add_argument(
        "--output", type=output_folder, metavar="DIR", help="also draw plots here, as PNG; made if missing"
    )
    return made


def progress(items: Iterable[Item] | None = None, **options: Any) -> tqdm[Item]:
    """Return a progress bar on standard error if that is a terminal, removed when done; as tqdm's."""
    return tqdm(items, **{"leave": False, "dynamic_ncols": True, "disable": None, **options})
