"""The ModelPatcher of a remote diffusion model: what its runs check and prepare, and how a MODEL is made."""

from __future__ import annotations

import sys
from typing import Any

import comfy.model_management
import comfy.model_patcher
import torch
from torch import nn

from ...client.remote_model import RemoteModel
from ...errors import UnsupportedPatchError
from ..wire.patch_form import NETWORK
from ..wire.patch_writer import PatchData
from .changes import swallowed_refusals
from .changes.foreign_code import warn_of_foreign
from .changes.model_state import ModelState
from .control_payload import refuse_weight_readers
from .patches.patch_uploads import report_skipped
from .patches.weight_hooks import RunHooks
from .remote_state import ModelRecord, keep_record, record_of, state_of
from .remote_weight import RemoteWeight, stand_in_for_weights
from .skeleton import WorkerModel, build_skeleton, meta_state_dict
from .stand_in import RemoteDiffusionModel
from .travel_policy import of_network, refuse_unsupported
from .weightless_patcher import WeightlessPatcher


class RemoteModelPatcher(WeightlessPatcher):
    """A patcher of a diffusion model whose weights are at the worker. Sampling hooks work as in ComfyUI."""

    weight_prefix = NETWORK

    @property
    def network(self) -> nn.Module:
        """The stand-in for the model's network."""
        network: nn.Module = self.model.diffusion_model
        return network

    def refuse_unsupported(self) -> None:
        """Refuse patches that cannot be sent to the worker; see `travel_policy`.

        Raises:
            UnsupportedPatchError: there are such patches.
        """
        refuse_unsupported(self)

    def patch_weights(self) -> PatchData:
        """Have the next calls name the weight patches, and give the skeleton the shapes that they result in."""
        data = super().patch_weights()
        self.model.diffusion_model.grow(data.grown)
        return data

    def after_loading(self) -> None:
        """Move what is here of the model."""
        self._move_what_is_here()

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

    def pre_run(self, *args: Any, **kwargs: Any) -> Any:
        """Check the model and prepare its calls. ComfyUI calls this once before each run.

        Raises:
            UnsupportedPatchError: the model has patches that cannot be sent to the worker.
            RemoteWeightError: a node has caught the refusal to change a weight, and gone on.
        """
        refuse_unsupported(self)
        report_skipped(self.patch_weights(), self)
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
        self.set_hooks(None)
        self._run_hooks = None
        if changed and sys.exc_info()[0] is None:
            raise UnsupportedPatchError(changed)

    @property
    def worker_release(self) -> str | None:
        """The release of the worker's ComfyUI when the model was loaded; None if unknown."""
        return record_of(self.model).worker_release

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
    stand_in_for_weights(remote, model.diffusion_model, NETWORK)
    weights = {
        key: RemoteWeight.of(remote, NETWORK + key, weight) for key, weight in meta_state_dict(worker).items()
    }
    model.diffusion_model = RemoteDiffusionModel(remote, model.diffusion_model, worker.weight_dtype, weights)
    # ComfyUI calls this for each condition before a run begins.
    model.extra_conds_shapes = refuse_weight_readers(model.extra_conds_shapes, remote.description.ref.name)
    device = comfy.model_management.get_torch_device()
    model.device = device
    keep_record(model, ModelRecord(remote, ModelState(model), release))
    return RemoteModelPatcher(model, load_device=device, offload_device=torch.device("cpu"))
