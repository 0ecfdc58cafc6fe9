"""A loaded module with its file, and the clones of its patcher that have weight patches on."""

from __future__ import annotations

import uuid
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ...backends.base import PatchSet
from ...backends.fingerprints import fingerprint
from ..wire.patch_reader import read_patches
from .hooked_weights import HookedWeights
from .modules.runnable_module import RunnableModule

# The number of patched clones that a module keeps.
_MAX_CLONES = 4


@dataclass(frozen=True)
class _Clone:
    patcher: Any
    # The modules whose weights are in its patches.
    merged: tuple[LoadedModule, ...]


@dataclass(eq=False)
class LoadedModule:
    """A module in memory.

    Attributes:
        paths: of its files.
        warnings: what ComfyUI warned of when it loaded them.
        hooks: hooks on the weights over their patches; of the module's patcher or of one of its clones.
    """

    module: RunnableModule
    paths: tuple[Path, ...]
    fingerprint: str
    warnings: tuple[str, ...] = ()
    hooks: HookedWeights = field(init=False)
    _clones: OrderedDict[tuple[Any, ...], _Clone] = field(default_factory=OrderedDict)

    def __post_init__(self) -> None:
        self.hooks = HookedWeights(self.module.weight_prefix)

    @property
    def patcher(self) -> Any:
        """The patcher without patches. Clones share its weights, which are patched for one of them at a time."""
        return self.module.patcher

    def is_current(self) -> bool:
        """Return whether the files are still those that were loaded."""
        try:
            return fingerprint(self.paths) == self.fingerprint
        except OSError:
            return False

    def patched(self, patches: PatchSet, merged: Sequence[LoadedModule]) -> Any:
        """Return a clone of the patcher with these patches. Clones are kept for the last four sets.

        Args:
            merged: the modules that are merged into this one; may have this one in it.

        Raises:
            BadPatchesError: the patches are malformed, or do not fit.
        """
        key = (patches.name, patches.strengths)
        found = self._clones.get(key)
        # A module that left memory and was loaded again has other tensors.
        if found is None or found.merged != tuple(merged):
            self.hooks.remove()  # a clone would keep them
            prefix = self.module.weight_prefix
            made = read_patches(patches, self.patcher, [each.patcher for each in merged], prefix)
            clone = self.patcher.clone()
            clone.patches = made
            clone.patches_uuid = uuid.uuid4()
            self._clones[key] = _Clone(clone, tuple(merged))
        self._clones.move_to_end(key)
        while len(self._clones) > _MAX_CLONES:
            self._clones.popitem(last=False)
        return self._clones[key].patcher

    def forget(self, merged: LoadedModule) -> None:
        """Let go of the weights of a module that leaves memory."""
        for key, clone in list(self._clones.items()):
            if merged not in clone.merged:
                continue
            del self._clones[key]
            self.hooks.remove()
            # Where memory is short ComfyUI patches weights as they are used, and would need them until then.
            if self.patcher.model.current_weight_patches_uuid == clone.patcher.patches_uuid:
                clone.patcher.detach()

    def release(self) -> None:
        """Give the memory of the module back."""
        self.hooks.remove()
        self._clones.clear()
        self.module.release()
