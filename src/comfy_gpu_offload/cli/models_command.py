"""The command `models`: lists the models that the configured worker can load, or removes one."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence

from ..client.connect import connect_from
from ..config.findings import checked_settings
from ..errors import ConfigError
from ..protocol.messages import ModelEntry, Skipped, Welcome
from .exit_status import FAILURE

_SHORT = 12


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's options."""
    parser.add_argument("--json", action="store_true", help="print the list as JSON")
    parser.add_argument("--hashes", action="store_true", help="print whole SHA-256 hashes")
    parser.add_argument(
        "--remove",
        metavar="NAME",
        help="remove a model from the worker's disk, if it was brought there by fetch or push",
    )
    parser.add_argument("--folder", metavar="NAME", help="the folder of the model to remove, if two have its name")
    parser.add_argument("--yes", action="store_true", help="remove it without asking")
    parser.epilog = "The worker is the one in COMFY_GPU_OFFLOAD_URL, or the endpoint in RUNPOD_ENDPOINT_ID."


def run(options: argparse.Namespace) -> int:
    """List the worker's models, or remove one.

    Raises:
        ConfigError: no worker is configured, or the name to remove is not one model's.
        OffloadError: the worker cannot be reached, or does not remove the model.
    """
    if options.remove is not None:
        return _remove(options)
    with connect_from(checked_settings()) as session:
        welcome = session.welcome
    if options.json:
        print(json.dumps([_fields(entry) for entry in welcome.models], indent=1))
    else:
        _print_list(welcome, hashes=options.hashes)
    return 0


def _print_list(welcome: Welcome, *, hashes: bool) -> None:
    """Print a line for each model: size in GB, folder, name, and hash and source where they are known."""
    for entry in welcome.models:
        line = f"{entry.size_bytes / 1e9:9.3f} GB  {entry.folder:<18}  {entry.name}"
        if entry.sha256 is not None:
            line += f"  (sha256 {_hash(entry.sha256, whole=hashes)}, {_words(entry.source)})"
        print(line)
    for skipped in skipped_lines(welcome.skipped):
        print(f"not offered: {skipped}")
    count = len(welcome.models)
    print(f"{count} {'model' if count == 1 else 'models'} on {welcome.device}, backend {welcome.backend}")
    if not count:
        print(f"On the worker's machine, {where_models_belong(welcome.folders)}.")


def _fields(entry: ModelEntry) -> dict[str, str | int | None]:
    return {
        "name": entry.name,
        "folder": entry.folder,
        "size_bytes": entry.size_bytes,
        "sha256": None if entry.sha256 is None else entry.sha256.hex(),
        "source": entry.source,
    }


def _hash(sha256: bytes, *, whole: bool) -> str:
    return sha256.hex() if whole else f"{sha256.hex()[:_SHORT]}…"


def _words(source: str | None) -> str:
    return "pushed" if source == "push" else f"from {source}"


def _remove(options: argparse.Namespace) -> int:
    with connect_from(checked_settings()) as session:
        entry = _only_one(session.welcome.models, options.remove, options.folder)
        name = entry.name.removeprefix(f"{entry.folder}/")
        if entry.source is None:
            raise ConfigError(
                f"{name} in {entry.folder} was not brought to the worker by fetch or push: only its operator can "
                "remove it, on its machine."
            )
        if not options.yes and not _agreed(f"Remove {name} ({entry.size_bytes / 1e9:.3f} GB, {entry.folder})?"):
            print("Nothing was removed.")
            return FAILURE
        session.remove_model(entry.folder, name)
    print(f"{name} was removed from {entry.folder} at the worker.")
    return 0


def _only_one(models: Sequence[ModelEntry], name: str, folder: str | None) -> ModelEntry:
    """Return the model that is meant.

    Raises:
        ConfigError: none or several have that name.
    """
    found = [
        entry
        for entry in models
        if name in {entry.name, entry.name.removeprefix(f"{entry.folder}/")} and folder in {None, entry.folder}
    ]
    if len(found) == 1:
        return found[0]
    if found:
        raise ConfigError(f"Two folders have {name}: add --folder {' or --folder '.join(e.folder for e in found)}.")
    raise ConfigError(f"The worker has no model {name}: comfy-gpu-offload models lists those that it has.")


def _agreed(question: str) -> bool:
    try:
        return input(f"{question} [y/N] ").strip().lower() in {"y", "yes"}
    except EOFError:  # nobody is there to ask
        return False


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
