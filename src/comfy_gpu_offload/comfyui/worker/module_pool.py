"""The modules in a worker's memory, whatever their kind: loaded, checked, patched, and evicted."""

from __future__ import annotations

import gc
import importlib
import logging
import threading
from collections.abc import Collection, Hashable
from pathlib import Path
from typing import Any

import psutil

from ...backends.base import ModelMismatchError, ModelNotFoundError, PatchSet, stop_at_blocks
from ...backends.fingerprints import fingerprint
from ...backends.resident_models import ResidentModels
from ...protocol.messages import ModelRef
from ..wire.patch_reader import merged_models
from .load_warnings import warnings_while_loading
from .loaded_module import LoadedModule
from .modules.runnable_module import ModuleFiles

logger = logging.getLogger(__name__)


class ModulePool:
    """Loaded modules by reference. Used from one thread at a time, once ComfyUI can be imported.

    Args:
        model_bytes: what loaded modules may take of this machine's memory; 0 for as much as it has.
        interrupted: ends a call at the next block of a module's network.
    """

    def __init__(self, model_bytes: int, interrupted: threading.Event) -> None:
        self._interrupted = interrupted
        self._kinds = importlib.import_module(".modules.kinds", __package__)
        self._management = importlib.import_module("comfy.model_management")
        self.residents: ResidentModels[LoadedModule] = ResidentModels(model_bytes, _available_bytes, self._unload)

    def load(self, ref: ModelRef, in_use: Collection[Hashable] = ()) -> tuple[LoadedModule, float]:
        """Return the module, and the seconds that loading it took; 0 where it was loaded already.

        Args:
            in_use: references to modules that may not leave memory for it.

        Raises:
            ModelNotFoundError: there is no such file, or this kind of module has no such form.
            ModelRunError: it cannot be loaded.
            OutOfMemoryError: it does not fit.
        """
        kind = self._kinds.kind_of(ref)

        def make(found: ModuleFiles) -> LoadedModule:
            with warnings_while_loading(*found.paths) as warnings:
                module = kind.load(found)
            network = module.network()
            if network is not None:
                stop_at_blocks(network, self._interrupted)
            return LoadedModule(module, found.paths, fingerprint(found.paths), tuple(warnings))

        return self.residents.load(ref, lambda: kind.find(ref), make, in_use)

    def load_same(
        self, ref: ModelRef, expected: str, in_use: Collection[Hashable] = ()
    ) -> tuple[LoadedModule, float]:
        """Return what `load` returns, if it is the module that the client was told of.

        Raises:
            ModelMismatchError: its fingerprint is not `expected`.
            BackendError: as `load`.
        """
        loaded, load_s = self.load(ref, in_use)
        if loaded.fingerprint != expected:
            raise ModelMismatchError(
                f"The worker's {ref.name!r} has changed since it was loaded. Queue the prompt again to load it."
            )
        return loaded, load_s

    def load_patched(
        self, ref: ModelRef, expected: str, patches: PatchSet | None
    ) -> tuple[LoadedModule, Any, float]:
        """Return the module, its patcher or a clone of that with these patches, and the seconds of loading.

        Hooks leave the weights of all other modules.

        Raises:
            BadPatchesError: the patches are malformed, or do not fit.
            BackendError: as `load_same`, of the module and of those that are merged into it.
        """
        merges = [] if patches is None else merged_models(patches)
        for second, _ in merges:
            if self._kinds.kind_of(second) is not self._kinds.kind_of(ref):
                noun = self._kinds.kind_of(ref).files.noun
                raise ModelNotFoundError(
                    f"There is no {noun} {second.name!r} to merge into {ref.name!r}: choose another."
                )
        in_use = {ref, *(second for second, _ in merges)}
        loaded, load_s = self.load_same(ref, expected, in_use)
        self._unhook_all_but(loaded)
        if patches is None:
            return loaded, loaded.patcher, load_s
        merged = []
        for second, its_fingerprint in merges:
            found, second_s = self.load_same(second, its_fingerprint, in_use)
            merged.append(found)
            load_s += second_s
        return loaded, loaded.patched(patches, merged), load_s

    def free_memory(self) -> None:
        """Free device memory that can be had again."""
        for each in self.residents:
            each.hooks.free()
        self._management.soft_empty_cache()

    def unload(self, path: Path) -> None:
        """Let the modules leave that were loaded from that file."""
        meant = path.resolve()
        self.residents.drop_where(lambda loaded: any(each.resolve() == meant for each in loaded.paths))

    def clear(self) -> None:
        """Let all modules leave."""
        self.residents.clear()

    def _unhook_all_but(self, loaded: LoadedModule) -> None:
        """Take hooks off: they change weights where they lie, and so those of a module that is merged elsewhere."""
        for other in self.residents:
            if other is not loaded:
                other.hooks.remove()

    def _unload(self, loaded: LoadedModule) -> None:
        logger.info("%s leaves memory", ", ".join(path.name for path in loaded.paths))
        for other in self.residents:
            other.forget(loaded)
        loaded.release()
        # ComfyUI holds its patchers weakly; models have cycles, so only a collection frees them now.
        del loaded
        gc.collect()
        self._management.soft_empty_cache()


def _available_bytes() -> int:
    return int(psutil.virtual_memory().available)
