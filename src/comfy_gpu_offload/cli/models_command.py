"""The command `models`: lists the models that the configured worker can load."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from ..client.connect import connect_from
from ..config.findings import checked_settings
from ..protocol.messages import Skipped


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add no options, since the worker comes from the settings; say so in the help."""
    parser.epilog = "The worker is the one in COMFY_GPU_OFFLOAD_URL, or the endpoint in RUNPOD_ENDPOINT_ID."


def run(_: argparse.Namespace) -> int:
    """Print a line for each model: size in GB, folder, name.

    Raises:
        OffloadError: no worker is configured, or it cannot be reached.
    """
    with connect_from(checked_settings()) as session:
        welcome = session.welcome
    for entry in welcome.models:
        print(f"{entry.size_bytes / 1e9:9.3f} GB  {entry.folder:<18}  {entry.name}")
    for line in skipped_lines(welcome.skipped):
        print(f"not offered: {line}")
    count = len(welcome.models)
    print(f"{count} {'model' if count == 1 else 'models'} on {welcome.device}, backend {welcome.backend}")
    if not count:
        print(f"On the worker's machine, {where_models_belong(welcome.folders)}.")
    return 0


def skipped_lines(skipped: Skipped | None) -> list[str]:
    """Return a line for each entry that the worker passes over, and one for those that it does not name."""
    if skipped is None:
        return []
    lines = [f"{entry.name}: {entry.reason}" for entry in skipped.entries]
    more = skipped.count - len(lines)
    return lines + ([f"and {more} more; the worker's log names them"] if more else [])


def where_models_belong(folders: Sequence[str] | None) -> str:
    """Return where to put models on a worker that has none."""
    if folders:
        return f"put one into {' or '.join(folders)}"
    return "put one into its folders, which its log names when it starts"
