"""ComfyUI's server, which writes down what it sends to pages in `sent`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any


class PromptQueue:
    """The prompts that run, as ComfyUI keeps them: by number (number, prompt's id, prompt, …)."""

    def __init__(self) -> None:
        self.currently_running: dict[int, tuple[Any, ...]] = {}


class PromptServer:
    """The one server of the process is `instance`, once there is one."""

    instance: PromptServer | None = None

    def __init__(self) -> None:
        self.client_id: str | None = "page"
        self.last_node_id: str | None = None
        self.last_prompt_id: str | None = "prompt"
        self.prompt_queue = PromptQueue()
        self.sent: list[tuple[str, Any, str]] = []
        self.handlers: list[Callable[[Any], Any]] = []

    def send_sync(self, event: str, data: Any, sid: str) -> None:
        """Send an event to a page."""
        self.sent.append((event, data, sid))

    def add_on_prompt_handler(self, handler: Callable[[Any], Any]) -> None:
        """Have each prompt that comes in shown to a function."""
        self.handlers.append(handler)
