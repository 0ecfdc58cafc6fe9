"""The parts that the loader nodes have in common."""

from __future__ import annotations

from collections.abc import Callable
from operator import attrgetter
from typing import Any

from comfy_api.v0_0_2 import io

from ..client.remote_model import RemoteModel
from ..comfyui.client import loader, node_lines


def use_runpod_input(thing: str) -> io.Boolean.Input:
    """Return the switch between the worker and this machine. `thing`: what the node loads, e.g. ``ControlNet``."""
    return io.Boolean.Input(
        "use_runpod",
        display_name="run on the worker",
        default=True,
        tooltip=f"On: the {thing} runs on the configured worker. Off: the file of the same name is loaded from "
        "this machine's own folders.",
    )


def is_chosen(name: str, thing: str) -> bool | str:
    """Return True for any name, since the list is the worker's; without a name, a text that says what to do."""
    return True if name else f"Choose a {thing}: the button on the node asks the worker for its list."


def load(
    thing: str,
    node_id: str | None,
    *,
    remotely: bool,
    here: Callable[[], Any],
    there: Callable[[], Any],
    details: Callable[[RemoteModel], str] = lambda _: "",
    remote_of: Callable[[Any], RemoteModel] = attrgetter("remote"),
) -> io.NodeOutput:
    """Load what a node is asked for, with a line on the node that says where.

    Args:
        remotely: whether to call `there` or `here`.
        details: what follows "on the worker" in the line.
        remote_of: returns the worker's module behind what `there` returned.

    Raises:
        OffloadError: it cannot be loaded.
    """
    if not remotely:
        with node_lines.line(f"loading the {thing} on this machine …", node_id) as line:
            line.result = "on this machine"
            return _output(here())
    with node_lines.line(f"asking the worker for the {thing} …", node_id) as line:
        loaded = there()
        remote = remote_of(loaded)
        line.result = f"on the worker{details(remote)}{loader.warned(remote)}"
    return _output(loaded)


def _output(loaded: Any) -> io.NodeOutput:
    """Return a node's output: a tuple is one for each of several sockets."""
    return io.NodeOutput(*loaded) if isinstance(loaded, tuple) else io.NodeOutput(loaded)
