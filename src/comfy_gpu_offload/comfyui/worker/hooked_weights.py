"""Hooks on a model's weights (LoRA schedules), put on and taken off by ComfyUI's own code.

ComfyUI computes such weights in two stages, its patches and then its hooks, and rounds after each, so that they are
not those of all patches in one list.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import torch

from ...backends.base import BadPatchesError, HookSet, PatchSet
from ..wire.patch_reader import read_patches


@dataclass(frozen=True)
class _Group:
    """A `comfy.hooks.HookGroup` of one hook.

    Attributes:
        made_of: names of the patches and strengths that it was made of.
        can_be_kept: whether ComfyUI can keep the weights that it computes for the hook.
    """

    group: Any
    hook: Any
    made_of: tuple[Any, ...]
    can_be_kept: bool


@dataclass(eq=False)
class HookedWeights:
    """Hooks on the weights of one model, in calls of one patcher at a time.

    The weights of a run's groups are kept from call to call as in ComfyUI, beside those that the model has: without
    that each call of another group would compute them anew. ComfyUI lets them go at the end of a run; here it is
    the next call without hooks, of other patches, or of another model.
    """

    weight_prefix: str
    _patcher: Any = None
    _groups: dict[int | None, _Group] = field(default_factory=dict)

    def place(self, patcher: Any, hooks: HookSet | None, place: Callable[[], None]) -> None:
        """Place the model's weights by `place`, and put `hooks` on them and nothing else.

        Raises:
            BadPatchesError: they are malformed, or do not fit the model; nothing is on it then.
        """
        if hooks is None or patcher is not self._patcher:
            self.remove()
        # When ComfyUI places a model it takes off the hooks that it knows of: it is to know of none.
        on, patcher.current_hooks = patcher.current_hooks, None
        place()
        if patcher.hook_backup:
            patcher.current_hooks = on
        if hooks is None:
            return
        self._patcher = patcher
        try:
            self._put_on(hooks)
        except BaseException as error:
            # Otherwise weights that were computed in part would be taken for complete.
            self.remove()
            if isinstance(error, AttributeError):  # quantised weights, as in a merge
                raise BadPatchesError(
                    "This worker's ComfyUI cannot put hooks on quantised weights, as this model's are: choose "
                    "another file."
                ) from error
            raise

    def remove(self) -> None:
        """Give the weights back what was under hooks, and let go of all that is kept."""
        if self._patcher is None:
            return
        # First, since unpatching takes memory: where there is none, the next call tries again.
        for number in list(self._groups):
            self._drop(number)
        self._patcher.unpatch_hooks()
        self._patcher = None

    def free(self) -> None:
        """Let go of weights that are kept; hooks stay on the model, since taking them off takes memory."""
        if self._patcher is not None:
            self._patcher.cached_hook_patches.clear()

    def _put_on(self, hooks: HookSet) -> None:
        patcher = self._patcher
        if hooks.patches is None:
            patcher.unpatch_hooks()
            return
        wanted = self._group(hooks.patches, hooks)
        if patcher.current_hooks is wanted.group and patcher.hook_backup:
            return
        modes = importlib.import_module("comfy.hooks").EnumHookMode
        # A model that does not fit the device is placed anew for each call, which takes hooks off.
        again = hooks.group is not None or patcher.model.model_lowvram
        patcher.hook_mode = modes.MaxSpeed if again and wanted.can_be_kept else modes.MinVram
        patcher.patch_hooks(wanted.group)

    def _group(self, patches: PatchSet, hooks: HookSet) -> _Group:
        made_of = (patches.name, patches.strengths, hooks.single)
        found = self._groups.get(hooks.group)
        if found is not None and found.made_of == made_of:
            return found
        # A new group of this number; and groups of a run that keeps weights never stay beside one that does not.
        for number in list(self._groups):
            if number == hooks.group or None in {number, hooks.group}:
                self._drop(number)
        strengths = _strengths(patches.strengths, hooks.single)
        data = read_patches(replace(patches, strengths=strengths), self._patcher, (), self.weight_prefix)
        known = importlib.import_module("comfy.hooks")
        group, hook = known.HookGroup(), known.WeightHook()
        group.add(hook)
        self._patcher.hook_patches[hook.hook_ref] = data
        made = _Group(group, hook, made_of, not any(_is_scaled(self._patcher.model, key) for key in data))
        self._groups[hooks.group] = made
        return made

    def _drop(self, number: int | None) -> None:
        dropped = self._groups.pop(number)
        self._patcher.cached_hook_patches.pop(dropped.group, None)
        self._patcher.hook_patches.pop(dropped.hook.hook_ref, None)


def _is_scaled(model: Any, key: str) -> bool:
    """Return whether a weight has a scale beside it, which ComfyUI forgets when it puts a kept weight on."""
    return importlib.import_module("comfy.model_patcher").get_key_weight(model, key)[1] is not None


def _strengths(pairs: tuple[tuple[float, float], ...], single: tuple[int, ...]) -> tuple[tuple[Any, float], ...]:
    """Return strengths as ComfyUI has them: a product with a tensor is rounded sooner than one with a number."""
    tensors = frozenset(single)
    if any(position >= len(pairs) for position in tensors):
        raise BadPatchesError("The weight patches are refused: they name a strength that is not there.")
    return tuple(
        (torch.tensor(strength, dtype=torch.float32) if position in tensors else strength, of_weight)
        for position, (strength, of_weight) in enumerate(pairs)
    )
