"""A ModelPatcher for a model that has no weights here."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, NoReturn

import comfy.model_management
import comfy.model_patcher
import torch

from ...client.remote_model import RemoteModel
from ...client.weight_patches import HookPatches
from ...errors import RemoteWeightsError, UnsupportedPatchError
from ..wire.patch_writer import PatchData
from .changes import swallowed_refusals
from .changes.foreign_code import warn_of_foreign
from .changes.model_state import ModelState
from .control_payload import refusing_readers
from .patches.patch_uploads import data_of, tell_of_added, tell_of_data, travelling
from .patches.skipped_patches import Origins, tell_of_nothing
from .patches.weight_hooks import RunHooks, refuse_unknown
from .remote_state import ModelRecord, keep_record, record_of, state_of
from .remote_weight import MergedWeight, RemoteWeight, as_it_is, stand_in_for_weights
from .running_node import patches_of
from .skeleton import WorkerModel, build_skeleton, meta_state_dict
from .stand_in import RemoteDiffusionModel
from .travel_policy import of_network, refuse_unless_it_travels

_NETWORK = "diffusion_model."
# In the place of a weight's name, where ComfyUI keeps weights that hooks have changed.
_KEPT = ""


class RemoteModelPatcher(comfy.model_patcher.ModelPatcher):  # type: ignore[misc]  # ComfyUI is untyped
    """Moves and patches no weights; object patches, wrappers, callbacks and hooks of sampling work as ever.

    Signatures grow between ComfyUI's versions, so arguments that do not matter here are not named.
    """

    _run_hooks: RunHooks | None = None
    origins: Origins = MappingProxyType({})

    def model_size(self) -> int:
        """0 bytes: nothing of it is here."""
        return 0

    def loaded_size(self) -> int:
        """0 bytes."""
        return 0

    def memory_required(self, *_: Any, **__: Any) -> int:
        """0: no activations either. Otherwise a small machine would split cond and uncond into two calls."""
        return 0

    def get_free_memory(self, *_: Any, **__: Any) -> float:
        """Without bound, for the same reason; the worker splits where it must."""
        return 1e18

    def current_loaded_device(self) -> torch.device:
        """Where sampling runs: there is nothing to load."""
        device: torch.device = self.load_device
        return device

    def is_dynamic(self) -> bool:
        """False: ComfyUI's dynamic loading is about weights."""
        return False

    def load(self, *_: Any, **__: Any) -> None:
        """Nothing to load."""

    def partially_load(self, *_: Any, force_patch_weights: bool = False, **__: Any) -> int:
        """Applies object patches, which ComfyUI does in the same step as loading weights.

        Clones share one model, and the last to sample may have left its own patches on it.

        Raises:
            UnsupportedPatchError: there are patches to apply, and the model carries what cannot travel.
            RemoteWeightsError: patched weights are asked for, as ComfyUI does to save them.
        """
        if force_patch_weights:
            self._refuse_reading()
        # What is injected or put over a part stays in the network, which all clones share, until it is taken out.
        if self.patches or self.injections or self.object_patches:
            refuse_unless_it_travels(self)
        self._patch_weights()
        self._tell_hooks(None)
        self.unpatch_model()
        self.patch_model(load_weights=False)
        self._move_what_is_here()
        return 0

    def _move_what_is_here(self) -> None:
        """Brings what is no weight of the network to the device, as ComfyUI does when it loads or patches weights.

        A schedule computed there differs in the last bit from one computed on the CPU, so it is to be computed
        where a local model's would be: on the CPU before the first run, and there after it.
        """
        record = record_of(self.model)
        if record.moved_with == self.patches_uuid:
            return
        record.moved_with = self.patches_uuid
        for name, child in self.model.named_children():
            if name != "diffusion_model" and not _lacks_data(child):
                child.to(self.load_device)

    def partially_unload(self, *_: Any, **__: Any) -> int:
        """Nothing to free."""
        return 0

    def unpatch_model(self, device_to: Any = None, unpatch_weights: bool = True) -> Any:
        """Undoes object patches."""
        return super().unpatch_model(None, unpatch_weights=False)

    def get_key_patches(self, filter_prefix: str | None = None) -> dict[str, list[Any]]:
        """What merging this model into another is made of: stand-ins for its weights, and the patches on them."""
        found = {}
        for key, weight in self.model_state_dict().items():
            if filter_prefix is None or key.startswith(filter_prefix):
                held = self._unpatched(key) if key.startswith(_NETWORK) else weight
                found[key] = [(held, as_it_is), *self.patches.get(key, ())]
        return found

    def _unpatched(self, key: str) -> MergedWeight:
        """Stand for a weight as it is in the model's file, whatever patches make of it."""
        return MergedWeight.of(self.remote, key, self.model.diffusion_model.in_file(key))

    def clone(self, *args: Any, force_deepcopy: bool = False, **kwargs: Any) -> Any:
        """Another patcher of the same model.

        Raises:
            RemoteWeightsError: weights of its own are asked for, as ComfyUI does to train them.
        """
        if force_deepcopy:
            raise RemoteWeightsError(self._name, "to train them")
        made = super().clone(*args, **kwargs)
        made.origins = self.origins
        return made

    def add_patches(self, patches: Mapping[Any, Any], *args: Any, **kwargs: Any) -> Any:
        """Add weight patches as ComfyUI does, and say on the node that adds them which do not fit."""
        added = super().add_patches(patches, *args, **kwargs)
        own = [value for value in patches.values() if not isinstance(value, list)]
        if own:
            name = patches_of()
            self.origins = {**self.origins, **{id(value): (value, name) for value in own}}
            tell_of_added(patches, self)
        elif not patches:
            tell_of_nothing(patches_of())
        return added

    def _refuse_reading(self, *_: Any, **__: Any) -> NoReturn:
        """Stands where ComfyUI would give weights with their patches on.

        Raises:
            RemoteWeightsError: always.
        """
        raise RemoteWeightsError(self._name, "to save them or to extract a LoRA from them")

    patch_weight_to_device = model_state_dict_for_saving = state_dict_for_saving = _refuse_reading

    def pre_run(self, *args: Any, **kwargs: Any) -> Any:
        """Called once before each sampling: the last moment before the first call.

        Raises:
            UnsupportedPatchError: the model carries what cannot travel.
        """
        refuse_unless_it_travels(self)
        tell_of_data(self._patch_weights(), self)
        swallowed_refusals.tell(self.remote)
        self._run_hooks = RunHooks(self)
        state_of(self.model.diffusion_model).begin_run(self._run_hooks.without)
        warn_of_foreign(self.model)
        return super().pre_run(*args, **kwargs)

    def cleanup(self) -> None:
        """Called once after each sampling.

        Raises:
            UnsupportedPatchError: a node changed the network around the calls of a run that had no other error.
        """
        changed = tuple(of_network(self.model.diffusion_model))
        super().cleanup()
        self._tell_hooks(None)
        self._run_hooks = None
        if changed and sys.exc_info()[0] is None:
            raise UnsupportedPatchError(changed)

    def register_all_hook_patches(self, *args: Any, **kwargs: Any) -> Any:
        """Makes known what a run's hooks put on weights.

        Raises:
            UnsupportedPatchError: there are hooks that cannot travel.
        """
        registered = super().register_all_hook_patches(*args, **kwargs)
        refuse_unknown(registered.hooks)
        return registered

    def patch_hooks(self, hooks: Any) -> None:
        """Has the calls that follow say what these hooks put on the weights; None for nothing.

        What they put there stays as it was at first where ComfyUI keeps weights, and until ComfyUI lets them go.
        """
        if hooks is None:
            self.unpatch_hooks()
            return
        run = self._run_hooks = self._run_hooks or RunHooks(self)
        found = self.cached_hook_patches.get(hooks) or {_KEPT: run.of(hooks)}
        if run.keeps:
            self.cached_hook_patches[hooks] = found
        self._tell_hooks(found[_KEPT])
        self.current_hooks = hooks

    def unpatch_hooks(self, whitelist_keys_set: set[str] | None = None) -> None:
        """Has the calls that follow say that no hooks are on."""
        self._tell_hooks(None if self._run_hooks is None else self._run_hooks.without)
        self.current_hooks = None

    def _tell_hooks(self, hooks: HookPatches | None) -> None:
        state_of(self.model.diffusion_model).set_hooks(hooks)

    def _patch_weights(self) -> PatchData:
        """Have the calls that follow name the patches, and the skeleton show what is larger with them."""
        data = data_of(self.patches, self)
        network = self.model.diffusion_model
        state_of(network).weight_patches = travelling(data) if self.patches else None
        network.grow(data.grown)
        return data

    @property
    def worker_release(self) -> str | None:
        """The worker's ComfyUI, when the model was loaded; None where it is not known."""
        return record_of(self.model).worker_release

    @property
    def _name(self) -> str:
        return self.remote.description.ref.name

    @property
    def remote(self) -> RemoteModel:
        """The worker's model behind this one."""
        return record_of(self.model).remote


def _lacks_data(module: torch.nn.Module) -> bool:
    return any(tensor.is_meta for tensor in (*module.parameters(), *module.buffers()))


def remote_patcher(remote: RemoteModel, release: str | None = None) -> RemoteModelPatcher:
    """A MODEL, as ComfyUI's nodes pass it on, for a worker's model.

    Args:
        release: the worker's ComfyUI, or None where it is not known.

    Raises:
        OffloadError: this ComfyUI cannot build the model's skeleton.
        MessageError: the worker's description is malformed.
    """
    worker = WorkerModel.of(remote.details)
    # Weights that are made in inference mode do not count what is written to them.
    with torch.inference_mode(False):
        model = build_skeleton(worker)
    stand_in_for_weights(remote, model.diffusion_model, _NETWORK)
    weights = {
        key: RemoteWeight.of(remote, _NETWORK + key, weight) for key, weight in meta_state_dict(worker).items()
    }
    model.diffusion_model = RemoteDiffusionModel(remote, model.diffusion_model, worker.weight_dtype, weights)
    # ComfyUI asks this of each condition before a run begins.
    model.extra_conds_shapes = refusing_readers(model.extra_conds_shapes, remote.description.ref.name)
    device = comfy.model_management.get_torch_device()
    model.device = device
    keep_record(model, ModelRecord(remote, ModelState(model), release))
    return RemoteModelPatcher(model, load_device=device, offload_device=torch.device("cpu"))
