"""Hooks on a remote model's weights (LoRA schedules): the patches that they put there for a call, as data.

ComfyUI decides on this machine, as for a local model, which hooks are on in a call and at which strengths.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any

import comfy.hooks
import torch

from ....client.weight_patches import HookPatches, WeightPatches
from ....errors import Obstacle, UnsupportedPatchError
from ....protocol.messages import MAX_HOOK_GROUPS
from ...wire.patch_shapes import NotDataError
from ...wire.patch_writer import ModelWeight, PatchData
from .. import refusals
from . import skipped_patches
from .patch_uploads import patch_data, patch_obstacles, upload_bar

_Kinds = comfy.hooks.EnumHookType
# Hooks of these kinds change weights, or act outside of the network, or in its options (see `travel_policy`).
_KNOWN = frozenset({_Kinds.Weight, _Kinds.TransformerOptions, _Kinds.AdditionalModels})


def refuse_unknown(hooks: Sequence[Any]) -> None:
    """Refuse hooks that the worker does not know.

    Args:
        hooks: those that a run has registered.

    Raises:
        UnsupportedPatchError: some would change the network, or have a strength that cannot be sent.
    """
    found = tuple(refusals.of_hook(hook) for hook in hooks if hook.hook_type not in _KNOWN)
    keyframes = (keyframe for hook in hooks for keyframe in hook.hook_keyframe.keyframes)
    if not all(_is_strength(keyframe.strength) for keyframe in keyframes):
        found += (refusals.HOOK_STRENGTH,)
    if found:
        raise UnsupportedPatchError(found)


def hook_obstacles(patcher: Any) -> Iterator[Obstacle]:
    """Yield the reasons why the patches of a patcher's hooks cannot be sent to the worker."""
    for patches in patcher.hook_patches.values():
        yield from patch_obstacles(patches, patcher, refusals.HOOK_NODES, _no_merge)


def _no_merge(_: Any) -> ModelWeight:
    raise NotDataError("a model merge that is put on by a hook")


class RunHooks:
    """The patches that a patcher's hooks put on the weights, by group of hooks. Made anew for each run.

    A group's template is the same at all strengths of its hooks, so the worker has it after the first call, and a
    keyframe with another strength changes only a number in the call.
    """

    def __init__(self, patcher: Any) -> None:
        self._patcher = patcher
        self._data: dict[Any, PatchData] = {}
        self._templates: dict[tuple[Any, ...], WeightPatches] = {}
        self._numbers: dict[Any, int] = {}

    @property
    def keeps(self) -> bool:
        """True if the worker keeps the weights that a group has changed, as ComfyUI would here (MaxSpeed)."""
        return bool(self._patcher.hook_mode == comfy.hooks.EnumHookMode.MaxSpeed)

    @property
    def without(self) -> HookPatches | None:
        """The hook patches of a call without hooks; None if the run has no hooks, or no weights are to be kept."""
        return HookPatches() if self.keeps and self._patcher.hook_patches else None

    def of(self, group: Any) -> HookPatches | None:
        """Return the patches of a group of hooks at the hooks' present strengths.

        Args:
            group: a `comfy.hooks.HookGroup`.

        Raises:
            UnsupportedPatchError: a strength cannot be sent. `refuse_unknown` has not seen it if the group holds a
                copy of the registered hook.
        """
        hooks = [hook for hook in group.hooks if self._patcher.hook_patches.get(hook.hook_ref)]
        if not hooks:
            return self.without
        if not all(_is_strength(hook.strength) for hook in hooks):
            raise UnsupportedPatchError((refusals.HOOK_STRENGTH,))
        listed = [
            (_scaled(strength, hook.strength), of_weight)
            for hook in hooks
            for strength, of_weight in self._of_hook(hook.hook_ref).strengths
        ]
        patches = self._template(tuple(hook.hook_ref for hook in hooks)).at(
            tuple((float(strength), of_weight) for strength, of_weight in listed)
        )
        # Products with a float32 tensor are rounded earlier than those with a Python float: the worker must know.
        single = tuple(place for place, (strength, _) in enumerate(listed) if isinstance(strength, torch.Tensor))
        return HookPatches(patches, single, self._number(group))

    def _number(self, group: Any) -> int | None:
        if not self.keeps:
            return None
        return self._numbers.setdefault(group, len(self._numbers) % MAX_HOOK_GROUPS)

    def _of_hook(self, ref: Any) -> PatchData:
        if ref not in self._data:
            patches = self._patcher.hook_patches[ref]
            self._data[ref] = patch_data(patches, self._patcher)
            skipped_patches.report(self._data[ref].left_out, patches, {})
        return self._data[ref]

    def _template(self, refs: tuple[Any, ...]) -> WeightPatches:
        """Return the patches of several hooks as one template, in the hooks' order on each weight."""
        if refs not in self._templates:
            template: dict[str, list[Any]] = {}
            strengths: list[tuple[float, float]] = []
            tensors: dict[bytes, torch.Tensor] = {}
            for data in map(self._of_hook, refs):
                # An entry names its strengths by their position, which moves behind those of the hooks before.
                for key, entries in data.template.items():
                    moved = [[position + len(strengths), *further] for position, *further in entries]
                    template.setdefault(key, []).extend(moved)
                strengths += data.strengths
                tensors |= data.tensors
            self._templates[refs] = WeightPatches(template, tuple(strengths), tensors, upload_bar())
        return self._templates[refs]


def _scaled(strength: float, by: Any) -> Any:
    """Return a patch's strength times its hook's, as `ModelPatcher.get_combined_hook_patches` computes it.

    The product with a tensor, which a keyframe's strength may be, is a tensor.
    """
    return strength if math.isclose(by, 1.0) else strength * by


def _is_strength(value: Any) -> bool:
    """Return whether a strength can be sent: a finite number, or a float32 tensor of shape [] with one."""
    if isinstance(value, torch.Tensor):
        return value.dtype is torch.float32 and not value.dim() and bool(value.isfinite())
    return isinstance(value, int | float) and math.isfinite(value)
