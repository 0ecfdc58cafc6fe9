"""A loaded ComfyUI model, and the clones of its patcher that have weight patches on."""

from __future__ import annotations

import uuid
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ...backends.base import PatchSet
from ...backends.fingerprints import fingerprint
from ..wire.patch_reader import from_data
from .hooked_weights import HookedWeights

# Of one model, each with other patches.
_MAX_CLONES = 4


@dataclass(frozen=True)
class _Clone:
    patcher: Any
    # Whose weights are in its patches.
    seconds: tuple[LoadedModel, ...]


@dataclass(frozen=True, eq=False)
class LoadedModel:
    """A model in memory, of one file.

    Attributes:
        patcher: without patches. Clones share its weights, which are patched for one of them at a time.
        warnings: what ComfyUI warned of when it loaded the file.
        hooks: what hooks put on the weights besides; of the patcher or of one of its clones.
    """

    patcher: Any
    path: Path
    fingerprint: str
    warnings: tuple[str, ...] = ()
    hooks: HookedWeights = field(default_factory=HookedWeights)
    _clones: OrderedDict[tuple[Any, ...], _Clone] = field(default_factory=OrderedDict)

    def is_current(self) -> bool:
        """Whether the file is still the one that was loaded."""
        try:
            return fingerprint([self.path]) == self.fingerprint
        except OSError:
            return False

    def patched(self, patches: PatchSet, seconds: Sequence[LoadedModel]) -> Any:
        """A clone of the patcher with these patches. Clones are kept for the last four sets.

        Args:
            seconds: the models that are merged into this one; may have this one in it.

        Raises:
            BadPatchesError: the patches are malformed, or do not fit.
        """
        key = (patches.name, patches.strengths)
        found = self._clones.get(key)
        # A model that left memory and was loaded again has other tensors.
        if found is None or found.seconds != tuple(seconds):
            self.hooks.remove()  # a clone would keep them
            made = from_data(patches, self.patcher, [second.patcher for second in seconds])
            clone = self.patcher.clone()
            clone.patches = made
            clone.patches_uuid = uuid.uuid4()
            self._clones[key] = _Clone(clone, tuple(seconds))
        self._clones.move_to_end(key)
        while len(self._clones) > _MAX_CLONES:
            self._clones.popitem(last=False)
        return self._clones[key].patcher

    def forget(self, second: LoadedModel) -> None:
        """Lets go of the weights of a model that leaves memory."""
        for key, clone in list(self._clones.items()):
            if second not in clone.seconds:
                continue
            del self._clones[key]
            self.hooks.remove()
            # Where memory is short ComfyUI patches weights as they are used, and would need them until then.
            if self.patcher.model.current_weight_patches_uuid == clone.patcher.patches_uuid:
                clone.patcher.detach()

    def release(self) -> None:
        """Gives its memory back."""
        self.hooks.remove()
        self._clones.clear()
        self.patcher.detach()
