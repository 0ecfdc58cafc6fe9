"""ComfyUI's hooks on weights."""

import enum
from typing import Any


class EnumHookMode(enum.Enum):
    """Whether weights that hooks have changed are kept."""

    MinVram = "minvram"
    MaxSpeed = "maxspeed"


class WeightHook:
    """A hook that patches weights."""

    def __init__(self) -> None:
        self.hook_ref = object()


class HookGroup:
    """Hooks that are on together."""

    def __init__(self) -> None:
        self.hooks: list[Any] = []

    def add(self, hook: Any) -> None:
        """Add one."""
        self.hooks.append(hook)
