"""A ModelPatcher for a model that has no weights here."""

from __future__ import annotations

from typing import Any, NoReturn

import comfy.model_management
import comfy.model_patcher
import torch

from ..client.remote_model import RemoteModel
from ..errors import RemoteWeightsError
from .control import refusing_readers
from .remote_weight import RemoteWeight, as_it_is
from .skeleton import WorkerModel, build_skeleton, meta_state_dict
from .stand_in import RemoteDiffusionModel
from .travel import refuse_unless_it_travels
from .weights import weight_patches

_NETWORK = "diffusion_model."


class RemoteModelPatcher(comfy.model_patcher.ModelPatcher):  # type: ignore[misc]  # ComfyUI is untyped
    """Moves and patches no weights; object patches, wrappers, callbacks and hooks of sampling work as ever.

    Signatures grow between ComfyUI's versions, so arguments that do not matter here are not named.
    """

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
        # What is injected stays in the network that all clones share until this clone takes it out.
        if self.patches or self.injections:
            refuse_unless_it_travels(self)
        self._patch_weights()
        self.unpatch_model()
        self.patch_model(load_weights=False)
        self._move_what_is_here()
        return 0

    def _move_what_is_here(self) -> None:
        """Brings what is no weight of the network to the device, as ComfyUI does when it loads or patches weights.

        A schedule computed there differs in the last bit from one computed on the CPU, so it is to be computed
        where a local model's would be: on the CPU before the first run, and there after it.
        """
        if self.model.__dict__.get("loaded_as") == self.patches_uuid:
            return
        self.model.__dict__["loaded_as"] = self.patches_uuid
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
                held = RemoteWeight.of(self.remote, key, weight) if key.startswith(_NETWORK) else weight
                found[key] = [(held, as_it_is), *self.patches.get(key, ())]
        return found

    def clone(self, *args: Any, force_deepcopy: bool = False, **kwargs: Any) -> Any:
        """Another patcher of the same model.

        Raises:
            RemoteWeightsError: weights of its own are asked for, as ComfyUI does to train them.
        """
        if force_deepcopy:
            raise RemoteWeightsError(self._name, "to train them")
        return super().clone(*args, **kwargs)

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
        self._patch_weights()
        self.model.diffusion_model.__dict__["told_of_control"] = False
        return super().pre_run(*args, **kwargs)

    def _patch_weights(self) -> None:
        self.model.diffusion_model.__dict__["weight_patches"] = weight_patches(self)

    @property
    def worker_release(self) -> str | None:
        """The worker's ComfyUI, when the model was loaded; None where it is not known."""
        release: str | None = self.model.worker_release
        return release

    @property
    def _name(self) -> str:
        return self.remote.description.ref.name

    @property
    def remote(self) -> RemoteModel:
        """The worker's model behind this one."""
        remote: RemoteModel = self.model.diffusion_model.__dict__["remote"]
        return remote


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
    model = build_skeleton(worker)
    model.diffusion_model = RemoteDiffusionModel(
        remote, model.diffusion_model, worker.weight_dtype, meta_state_dict(worker)
    )
    # ComfyUI asks this of each condition before a run begins.
    model.extra_conds_shapes = refusing_readers(model.extra_conds_shapes, remote.description.ref.name)
    device = comfy.model_management.get_torch_device()
    model.device = device
    model.worker_release = release
    return RemoteModelPatcher(model, load_device=device, offload_device=torch.device("cpu"))
