"""The ModelPatcher of a remote model: patches become data for the worker, and no weight is moved or changed."""

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
from .control_payload import refuse_weight_readers
from .patches.patch_uploads import as_weight_patches, patch_data, report_added, report_skipped
from .patches.skipped_patches import Origins, report_no_match
from .patches.weight_hooks import RunHooks, refuse_unknown
from .remote_state import ModelRecord, keep_record, record_of, state_of
from .remote_weight import MergedWeight, RemoteWeight, as_it_is, stand_in_for_weights
from .running_node import patch_source
from .skeleton import WorkerModel, build_skeleton, meta_state_dict
from .stand_in import RemoteDiffusionModel
from .travel_policy import of_network, refuse_unsupported

_NETWORK = "diffusion_model."
# A key of `cached_hook_patches`, where ComfyUI keeps weights by name: here one entry stands for all of them.
_KEPT = ""


class RemoteModelPatcher(comfy.model_patcher.ModelPatcher):  # type: ignore[misc]  # ComfyUI is untyped
    """A patcher of a model whose weights are at the worker.

    It moves and patches no weights. Object patches, wrappers, callbacks and sampling hooks work as in ComfyUI.
    Methods name only the arguments that they use, because ComfyUI's signatures grow from release to release.

    Attributes:
        origins: by the id of a weight patch's value, the value and the file or node that it comes from.
    """

    _run_hooks: RunHooks | None = None
    origins: Origins = MappingProxyType({})

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
            refuse_unsupported(self)
        self._patch_weights()
        self._set_hooks(None)
        self.unpatch_model()
        self.patch_model(load_weights=False)
        self._move_what_is_here()
        return 0

    def _move_what_is_here(self) -> None:
        """Move the model's other parts to the device, as ComfyUI does when it loads or patches weights.

        A schedule that is computed on the device differs in the last bit from one computed on the CPU. It has to be
        computed where a local model's would be: on the CPU before the first run, on the device afterwards.
        """
        record = record_of(self.model)
        if record.moved_with == self.patches_uuid:
            return
        record.moved_with = self.patches_uuid
        for name, child in self.model.named_children():
            if name != "diffusion_model" and not _lacks_data(child):
                child.to(self.load_device)

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
                held = self._unpatched(key) if key.startswith(_NETWORK) else weight
                found[key] = [(held, as_it_is), *self.patches.get(key, ())]
        return found

    def _unpatched(self, key: str) -> MergedWeight:
        """Return a stand-in for a weight as it is in the model's file, without patches."""
        return MergedWeight.of(self.remote, key, self.model.diffusion_model.in_file(key))

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

    def pre_run(self, *args: Any, **kwargs: Any) -> Any:
        """Check the model and prepare its calls. ComfyUI calls this once before each run.

        Raises:
            UnsupportedPatchError: the model has patches that cannot be sent to the worker.
            RemoteWeightError: a node has caught the refusal to change a weight, and gone on.
        """
        refuse_unsupported(self)
        report_skipped(self._patch_weights(), self)
        swallowed_refusals.report(self.remote)
        self._run_hooks = RunHooks(self)
        state_of(self.model.diffusion_model).begin_run(self._run_hooks.without)
        warn_of_foreign(self.model)
        return super().pre_run(*args, **kwargs)

    def cleanup(self) -> None:
        """End a run. ComfyUI calls this once after each.

        Raises:
            UnsupportedPatchError: a node has changed the network between the run's calls, and the run had no other
                error.
        """
        changed = tuple(of_network(self.model.diffusion_model))
        super().cleanup()
        self._set_hooks(None)
        self._run_hooks = None
        if changed and sys.exc_info()[0] is None:
            raise UnsupportedPatchError(changed)

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
        self._set_hooks(found[_KEPT])
        self.current_hooks = hooks

    def unpatch_hooks(self, whitelist_keys_set: set[str] | None = None) -> None:
        """Have the next calls say that no hooks are on."""
        self._set_hooks(None if self._run_hooks is None else self._run_hooks.without)
        self.current_hooks = None

    def _set_hooks(self, hooks: HookPatches | None) -> None:
        state_of(self.model.diffusion_model).set_hooks(hooks)

    def _patch_weights(self) -> PatchData:
        """Have the next calls name the weight patches, and give the skeleton the shapes that they result in."""
        data = patch_data(self.patches, self)
        network = self.model.diffusion_model
        state_of(network).weight_patches = as_weight_patches(data) if self.patches else None
        network.grow(data.grown)
        return data

    @property
    def worker_release(self) -> str | None:
        """The release of the worker's ComfyUI when the model was loaded; None if unknown."""
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
    """Return a MODEL, as ComfyUI's nodes pass it on, for a worker's model.

    Args:
        remote: the worker's model.
        release: the release of the worker's ComfyUI, or None if unknown.

    Raises:
        OffloadError: this ComfyUI cannot build the model's skeleton.
        MessageError: the worker's description is malformed.
    """
    worker = WorkerModel.of(remote.details)
    # Tensors made in inference mode have no version counter, by which writes to them are noticed.
    with torch.inference_mode(False):
        model = build_skeleton(worker)
    stand_in_for_weights(remote, model.diffusion_model, _NETWORK)
    weights = {
        key: RemoteWeight.of(remote, _NETWORK + key, weight) for key, weight in meta_state_dict(worker).items()
    }
    model.diffusion_model = RemoteDiffusionModel(remote, model.diffusion_model, worker.weight_dtype, weights)
    # ComfyUI calls this for each condition before a run begins.
    model.extra_conds_shapes = refuse_weight_readers(model.extra_conds_shapes, remote.description.ref.name)
    device = comfy.model_management.get_torch_device()
    model.device = device
    keep_record(model, ModelRecord(remote, ModelState(model), release))
    return RemoteModelPatcher(model, load_device=device, offload_device=torch.device("cpu"))
