"""Hooks on a remote model's weights (LoRA schedules): what they put there for a call, as data.

When hooks are put on and taken off, and at which strengths, ComfyUI decides here, as for a model that is here.
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
from .patch_uploads import data_of, obstacles_among, upload_bar

_Kinds = comfy.hooks.EnumHookType
# What hooks of these kinds do ComfyUI does outside of the network, or puts into its options, which `travel` reads.
_KNOWN = frozenset({_Kinds.Weight, _Kinds.TransformerOptions, _Kinds.AdditionalModels})


def refuse_unknown(hooks: Sequence[Any]) -> None:
    """Reads hooks that a run has registered.

    Raises:
        UnsupportedPatchError: some would change the network, or have a strength that cannot travel.
    """
    found = tuple(refusals.of_hook(hook) for hook in hooks if hook.hook_type not in _KNOWN)
    keyframes = (keyframe for hook in hooks for keyframe in hook.hook_keyframe.keyframes)
    if not all(_is_strength(keyframe.strength) for keyframe in keyframes):
        found += (refusals.HOOK_STRENGTH,)
    if found:
        raise UnsupportedPatchError(found)


def refused_hooks(patcher: Any) -> Iterator[Obstacle]:
    """Everything among what a patcher's hooks put on weights that cannot travel."""
    for patches in patcher.hook_patches.values():
        yield from obstacles_among(patches, patcher, refusals.HOOK_NODES, _no_merge)


def _no_merge(_: Any) -> ModelWeight:
    raise NotDataError("a model merge that is put on by a hook")


class RunHooks:
    """What the hooks that a patcher has now put on the weights, by group. Made anew for each run.

    A group's template stays the same whatever its hooks' strengths are, so that another strength is another number.
    """

    def __init__(self, patcher: Any) -> None:
        self._patcher = patcher
        self._data: dict[Any, PatchData] = {}
        self._templates: dict[tuple[Any, ...], WeightPatches] = {}
        self._numbers: dict[Any, int] = {}

    @property
    def keeps(self) -> bool:
        """Whether the weights of a group are to be kept: ComfyUI keeps them where a run has others."""
        return bool(self._patcher.hook_mode == comfy.hooks.EnumHookMode.MaxSpeed)

    @property
    def without(self) -> HookPatches | None:
        """What a call says that has no hooks on; None in a run that has none, or whose weights need not be kept."""
        return HookPatches() if self.keeps and self._patcher.hook_patches else None

    def of(self, group: Any) -> HookPatches | None:
        """Those of a `comfy.hooks.HookGroup` at its hooks' strengths of the moment.

        Raises:
            UnsupportedPatchError: one cannot travel, of a hook that was not registered: a copy of another was.
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
        single = tuple(place for place, (strength, _) in enumerate(listed) if isinstance(strength, torch.Tensor))
        return HookPatches(patches, single, self._number(group))

    def _number(self, group: Any) -> int | None:
        if not self.keeps:
            return None
        return self._numbers.setdefault(group, len(self._numbers) % MAX_HOOK_GROUPS)

    def _of_hook(self, ref: Any) -> PatchData:
        if ref not in self._data:
            patches = self._patcher.hook_patches[ref]
            self._data[ref] = data_of(patches, self._patcher)
            skipped_patches.tell(self._data[ref].left_out, patches, {})
        return self._data[ref]

    def _template(self, refs: tuple[Any, ...]) -> WeightPatches:
        """The patches of several hooks, one after another on each weight."""
        if refs not in self._templates:
            template: dict[str, list[Any]] = {}
            strengths: list[tuple[float, float]] = []
            tensors: dict[bytes, torch.Tensor] = {}
            for data in map(self._of_hook, refs):
                for key, entries in data.template.items():
                    moved = [[position + len(strengths), *further] for position, *further in entries]
                    template.setdefault(key, []).extend(moved)
                strengths += data.strengths
                tensors |= data.tensors
            self._templates[refs] = WeightPatches(template, tuple(strengths), tensors, upload_bar())
        return self._templates[refs]


def _scaled(strength: float, by: Any) -> Any:
    """As `ModelPatcher.get_combined_hook_patches`: a product with a keyframe's tensor is a tensor."""
    return strength if math.isclose(by, 1.0) else strength * by


def _is_strength(value: Any) -> bool:
    if isinstance(value, torch.Tensor):
        return value.dtype is torch.float32 and not value.dim() and bool(value.isfinite())
    return isinstance(value, int | float) and math.isfinite(value)
