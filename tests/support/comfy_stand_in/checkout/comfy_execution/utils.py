"""The node that runs on this thread."""

from dataclasses import dataclass


@dataclass
class ExecutionContext:
    """A node of a prompt."""

    prompt_id: str
    node_id: str


# Set by tests. Not in ComfyUI, where it is a context variable.
present: ExecutionContext | None = None


def get_executing_context() -> ExecutionContext | None:
    """Return the node that runs."""
    return present
