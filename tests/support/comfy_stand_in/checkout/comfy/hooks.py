"""ComfyUI's hooks on weights."""

from __future__ import annotations

import enum
from collections.abc import Iterable
from typing import Any


class EnumHookMode(enum.Enum):
    """The choice whether weights that hooks have changed are kept."""

    MinVram = "minvram"
    MaxSpeed = "maxspeed"


class EnumHookType(enum.Enum):
    """Kinds of hooks."""

    Weight = "weight"
    ObjectPatch = "object_patch"
    AdditionalModels = "add_models"
    TransformerOptions = "transformer_options"
    Injections = "add_injections"


class HookKeyframe:
    """A strength from some part of a run on."""

    def __init__(self, strength: Any, start_percent: float = 0.0) -> None:
        self.strength, self.start_percent = strength, start_percent


class HookKeyframeGroup:
    """The keyframes of a hook."""

    def __init__(self, keyframes: Iterable[HookKeyframe] = ()) -> None:
        self.keyframes = list(keyframes)


class Hook:
    """A hook; `strength` is that of the present keyframe."""

    def __init__(self, hook_type: EnumHookType = EnumHookType.Weight) -> None:
        self.hook_type = hook_type
        self.hook_ref = object()
        self.hook_keyframe = HookKeyframeGroup()
        self.strength: Any = 1.0


class WeightHook(Hook):
    """A hook that patches weights."""


class HookGroup:
    """Hooks that are on together."""

    def __init__(self) -> None:
        self.hooks: list[Any] = []

    def add(self, hook: Any) -> None:
        """Add one."""
        self.hooks.append(hook)
