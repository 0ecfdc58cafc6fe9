"""The ModelPatcher of a module at the worker, of any kind: it moves no weights, and its patches become data."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, ClassVar, NoReturn

import comfy.model_patcher
import torch
from torch import nn

from ...client.remote_model import RemoteModel
from ...client.weight_patches import HookPatches
from ...errors import RemoteWeightsError
from ..wire.patch_writer import PatchData
from .patches.patch_uploads import as_weight_patches, patch_data, report_added
from .patches.skipped_patches import Origins, report_no_match
from .patches.weight_hooks import RunHooks, refuse_unknown
from .remote_state import state_of
from .remote_weight import MergedWeight, as_it_is
from .running_node import patch_source

# A key of `cached_hook_patches`, where ComfyUI keeps weights by name: here one entry stands for all of them.
_KEPT = ""


class WeightlessPatcher(comfy.model_patcher.ModelPatcher):  # type: ignore[misc]  # ComfyUI is untyped
    """A patcher of a module whose weights are at the worker. Subclasses say what they refuse.

    It moves and patches no weights. Object patches, wrappers and callbacks work as in ComfyUI.
    Methods name only the arguments that they use, because ComfyUI's signatures grow from release to release.

    Attributes:
        weight_prefix: with what the keys of weights begin that may be patched.
        origins: by the id of a weight patch's value, the value and the file or node that it comes from.
    """

    weight_prefix: ClassVar[str] = ""
    _run_hooks: RunHooks | None = None
    origins: Origins = MappingProxyType({})

    @property
    def network(self) -> nn.Module:
        """The module that carries the `RemoteState`."""
        network: nn.Module = self.model
        return network

    @property
    def remote(self) -> RemoteModel:
        """The worker's module behind this one."""
        return state_of(self.network).remote

    def refuse_unsupported(self) -> None:
        """Refuse patches that cannot be sent to the worker.

        Raises:
            UnsupportedPatchError: there are such patches.
        """
        raise NotImplementedError

    def after_loading(self) -> None:
        """Do what else ComfyUI does in the step that loads weights; by default nothing."""

    def model_size(self) -> int:
        """Return 0 bytes: no weight is here."""
        return 0

    def loaded_size(self) -> int:
        """Return 0 bytes."""
        return 0

    def memory_required(self, *_: Any, **__: Any) -> int:
        """Return 0 bytes: a call needs no memory here.

        With another answer ComfyUI would split cond and uncond into two calls on a small machine.
        """
        return 0

    def get_free_memory(self, *_: Any, **__: Any) -> float:
        """Return an unlimited number of bytes, for the same reason; the worker splits a call that is too large."""
        return 1e18

    def current_loaded_device(self) -> torch.device:
        """Return the device that sampling uses: there is nothing to load."""
        device: torch.device = self.load_device
        return device

    def is_dynamic(self) -> bool:
        """Return False: ComfyUI's dynamic loading is for weights."""
        return False

    def load(self, *_: Any, **__: Any) -> None:
        """Do nothing: there is nothing to load."""

    def partially_load(self, *_: Any, force_patch_weights: bool = False, **__: Any) -> int:
        """Apply object patches, as ComfyUI does in the step that loads weights; return 0 bytes loaded.

        All clones share one model, and the last one that sampled may have left its own patches on it.

        Raises:
            UnsupportedPatchError: there are patches to apply, and some of the model's cannot be sent to the worker.
            RemoteWeightsError: patched weights are asked for, as ComfyUI does to save them.
        """
        if force_patch_weights:
            self._refuse_reading()
        # Injections and object patches stay in the network, which all clones share, until they are removed. So
        # those that will be refused must not be applied in the first place.
        if self.patches or self.injections or self.object_patches:
            self.refuse_unsupported()
        self.patch_weights()
        self.set_hooks(None)
        self.unpatch_model()
        self.patch_model(load_weights=False)
        self.after_loading()
        return 0

    def partially_unload(self, *_: Any, **__: Any) -> int:
        """Return 0 bytes freed."""
        return 0

    def unpatch_model(self, device_to: Any = None, unpatch_weights: bool = True) -> Any:
        """Undo object patches."""
        return super().unpatch_model(None, unpatch_weights=False)

    def get_key_patches(self, filter_prefix: str | None = None) -> dict[str, list[Any]]:
        """Return by key, for a merge into another model, the stand-in for each weight and the patches on it."""
        found = {}
        for key, weight in self.model_state_dict().items():
            if filter_prefix is None or key.startswith(filter_prefix):
                held = self._unpatched(key) if key.startswith(self.weight_prefix) else weight
                found[key] = [(held, as_it_is), *self.patches.get(key, ())]
        return found

    def _unpatched(self, key: str) -> MergedWeight:
        """Return a stand-in for a weight as it is in the model's file, without patches."""
        weights = state_of(self.network).file_weights
        return MergedWeight.of(self.remote, key, weights[key.removeprefix(self.weight_prefix)])

    def clone(self, *args: Any, force_deepcopy: bool = False, **kwargs: Any) -> Any:
        """Return another patcher of the same model.

        Raises:
            RemoteWeightsError: a copy of the weights is asked for, as ComfyUI does to train them.
        """
        if force_deepcopy:
            raise RemoteWeightsError(self._name, "to train them")
        made = super().clone(*args, **kwargs)
        made.origins = self.origins
        return made

    def add_patches(self, patches: Mapping[Any, Any], *args: Any, **kwargs: Any) -> Any:
        """Add weight patches as ComfyUI does, and report those that do not fit on the node that adds them."""
        added = super().add_patches(patches, *args, **kwargs)
        # A value that is a list is a merge with another model, and comes from no LoRA file.
        own = [value for value in patches.values() if not isinstance(value, list)]
        if own:
            name = patch_source()
            self.origins = {**self.origins, **{id(value): (value, name) for value in own}}
            report_added(patches, self)
        elif not patches:
            report_no_match(patch_source())
        return added

    def _refuse_reading(self, *_: Any, **__: Any) -> NoReturn:
        """Refuse to return patched weights.

        Raises:
            RemoteWeightsError: always.
        """
        raise RemoteWeightsError(self._name, "to save them or to extract a LoRA from them")

    patch_weight_to_device = model_state_dict_for_saving = state_dict_for_saving = _refuse_reading

    def register_all_hook_patches(self, *args: Any, **kwargs: Any) -> Any:
        """Register the patches that a run's hooks put on weights.

        Raises:
            UnsupportedPatchError: there are hooks that cannot be sent to the worker.
        """
        registered = super().register_all_hook_patches(*args, **kwargs)
        refuse_unknown(registered.hooks)
        return registered

    def patch_hooks(self, hooks: Any) -> None:
        """Have the next calls name the patches that a group of hooks puts on the weights; None for no group.

        Where ComfyUI keeps the weights that a group has changed, it does not compute them again for other strengths
        until it drops them. So the first patches of the group are kept here, and dropped, in the same way.
        """
        if hooks is None:
            self.unpatch_hooks()
            return
        run = self._run_hooks = self._run_hooks or RunHooks(self)
        found = self.cached_hook_patches.get(hooks) or {_KEPT: run.of(hooks)}
        if run.keeps:
            self.cached_hook_patches[hooks] = found
        self.set_hooks(found[_KEPT])
        self.current_hooks = hooks

    def unpatch_hooks(self, whitelist_keys_set: set[str] | None = None) -> None:
        """Have the next calls say that no hooks are on."""
        self.set_hooks(None if self._run_hooks is None else self._run_hooks.without)
        self.current_hooks = None

    def set_hooks(self, hooks: HookPatches | None) -> None:
        """Have the next calls name `hooks`; None for none."""
        state_of(self.network).set_hooks(hooks)

    def patch_weights(self) -> PatchData:
        """Have the next calls name the weight patches."""
        data = patch_data(self.patches, self)
        state_of(self.network).weight_patches = as_weight_patches(data) if self.patches else None
        return data

    @property
    def _name(self) -> str:
        return self.remote.description.ref.name
