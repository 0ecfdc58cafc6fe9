"""The entry point: parses arguments and runs one command, whose module is imported only then."""

from __future__ import annotations

import argparse
import importlib
import logging
import sys
import threading
from collections.abc import Sequence
from time import monotonic
from typing import Any

from ..version import __version__
from .exit_status import exit_status

_THREADS_END_S = 1.0

COMMANDS = {
    "worker": "hold models and run their forward passes for others",
    "pairings": "list the pairings of this machine's workers, add or revoke one",
    "up": "rent a GPU at RunPod, start a worker there, and use it",
    "down": "give back what was rented",
    "status": "list what is rented, and what it costs",
    "logs": "show the log of a rented machine",
    "demo": "sample digits through a worker, and show that remote equals local",
    "doctor": "check the configured worker, and say what to do where something is wrong",
    "tune": "measure what a picture takes through the configured worker, and say which compression to set",
    "models": "list what the configured worker can load, or remove one",
    "fetch": "have the configured worker download a model",
    "push": "send a model file of this machine to the configured worker",
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; return the exit status: 0, 1 for a failure, 2 for a wrong call or setting."""
    status = exit_status(lambda: _run(list(sys.argv[1:] if arguments is None else arguments)))
    _let_threads_end()
    return status


def _run(argv: list[str]) -> int:
    options = _parse(argv)
    logging.basicConfig(level=options.log_level, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    return int(_load(options.command).run(options))


def _let_threads_end() -> None:
    """Give this package's threads a moment to end, which those of a closed session soon do.

    A daemon thread that is inside of torch when the interpreter ends would abort the process (Python 3.11).
    """
    deadline = monotonic() + _THREADS_END_S
    for thread in threading.enumerate():
        if (
            thread.daemon
            and thread.name.startswith("comfy-gpu-offload")
            and thread is not threading.current_thread()
        ):
            thread.join(max(0.0, deadline - monotonic()))


def _parse(argv: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="comfy-gpu-offload", description=_summary())
    parser.add_argument("--version", action="version", version=__version__)
    parser.add_argument("--log-level", default="INFO", choices=["DEBUG", "INFO", "WARNING", "ERROR"])
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    chosen = next((word for word in argv if word in COMMANDS), None)
    for name, text in COMMANDS.items():
        command = commands.add_parser(name, help=text, description=text.capitalize() + ".")
        if name == chosen:
            _load(name).add_arguments(command)
    return parser.parse_args(argv)


def _summary() -> str:
    return "Run ComfyUI's big models on somebody else's GPU: the heavy networks run there, all else here."


def _load(command: str) -> Any:
    return importlib.import_module(f".{command}_command", __package__)
