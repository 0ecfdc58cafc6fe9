"""The comfyui backend: modules of every kind in `modules/kinds.py`, run by ComfyUI's own code."""

from __future__ import annotations

import importlib
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from time import perf_counter
from typing import Any

import torch

from ...backends.base import (
    Backend,
    BackendInfo,
    Computed,
    Described,
    Listing,
    ModelFolder,
    ModelRunError,
    ModuleCall,
    PatchSet,
    Report,
    casting,
    first_call,
    model_errors,
    on_device,
)
from ...backends.model_folders import SkipLog, Skips
from ...protocol.messages import ModelDescription, ModelEntry, ModelRef, SampleJob
from ..installation import import_comfyui
from ..wire.network_methods import METHOD
from .loaded_module import LoadedModule
from .module_pool import ModulePool
from .modules.runnable_module import MethodCall, RunnableModule


class ComfyUIBackend(Backend):
    """See `Backend`.

    Args:
        root: the ComfyUI folder.
        models_dir: a further folder, with diffusion_models/ and checkpoints/ in it or models itself.
        extra_model_paths: further files of the form of ComfyUI's extra_model_paths.yaml.
        cpu: use no GPU.
        model_bytes: what loaded models may take of this machine's memory; 0 for as much as it has.
    """

    has_modules = True

    def __init__(
        self,
        root: Path,
        *,
        models_dir: Path | None = None,
        extra_model_paths: Sequence[Path] = (),
        cpu: bool = False,
        model_bytes: int = 0,
    ) -> None:
        self._version = import_comfyui.enter(root, cpu=cpu)
        self._management = importlib.import_module("comfy.model_management")
        self._kinds = importlib.import_module(".modules.kinds", __package__)
        import_comfyui.add_model_paths(root, extra_model_paths)
        if models_dir is not None:
            import_comfyui.add_models_dir(models_dir, [kind.files for kind in self._kinds.KINDS])
        self._interrupted = threading.Event()
        self.pool = ModulePool(model_bytes, self._interrupted)
        self._skip_log = SkipLog()

    def info(self) -> BackendInfo:
        """See `Backend`."""
        device = self._management.get_torch_device()
        name = torch.cuda.get_device_name(device) if device.type == "cuda" else device.type.upper()
        return BackendInfo("comfyui", name, self._version, self._kinds.DiffusionModel.files.paths())

    def listing(self) -> Listing:
        """See `Backend`."""
        skips = Skips()
        models: dict[tuple[str, str], ModelEntry] = {}
        modules: dict[tuple[str, str], ModelEntry] = {}
        for kind in self._kinds.KINDS:
            for file in kind.files.list_files(skips):
                entry = ModelEntry(name=file.name, folder=file.folder, size_bytes=file.size_bytes)
                found = models if kind in self._kinds.KNOWN_TO_ALL else modules
                found.setdefault((file.folder, str(file.path)), entry)
        skipped = tuple(skips.entries.values())
        self._skip_log.log(skipped)
        further = (entry for key, entry in modules.items() if key not in models)
        return Listing(tuple(models.values()), skipped, tuple(further))

    def model_folders(self) -> Mapping[str, ModelFolder]:
        """See `Backend`."""
        kinds = [kind.files for kind in self._kinds.KINDS]
        return {name: kind.folder_for_new(name) for kind in kinds for name in kind.folders}

    def unload(self, path: Path) -> None:
        """See `Backend`."""
        self.pool.unload(path)

    def describe(self, ref: ModelRef) -> Described:
        """See `Backend`. For the details see `describe` of the module's kind."""
        loaded, _ = self.pool.load(ref)
        description = ModelDescription(
            ref=ref,
            fingerprint=loaded.fingerprint,
            compute_dtype=str(loaded.module.compute_dtype()).removeprefix("torch."),
            warnings=loaded.warnings,
        )
        return Described(description, loaded.module.describe(ref.name))

    def forward(self, call: ModuleCall) -> Computed:
        """See `Backend`."""
        ref, method, kwargs = call.ref, call.method, call.kwargs
        if METHOD in kwargs:  # of a client of an older release
            method = kwargs[METHOD]
            kwargs = {name: value for name, value in kwargs.items() if name != METHOD}
        method = self._kinds.listed_method(ref, method)
        started = perf_counter()
        kind, autocast = self._kinds.kind_of(ref), call.autocast
        prepared = kind.prepare(method, call.args, kwargs, self._load_module, autocast=autocast is not None)
        prepared_s = perf_counter() - started
        with torch.inference_mode(), model_errors(ref.name, self.pool.free_memory):
            loaded, patcher, load_s = self.pool.load_patched(ref, call.fingerprint, call.patches)
            started = perf_counter()
            loaded.hooks.place(patcher, call.hooks, lambda: self._place(patcher, prepared))
            moved = prepared.moved(patcher.load_device)
            placed = perf_counter()
            bound = prepared.bind(loaded.module, patcher, *moved)
            # Around the module alone: weights patched under autocast would stay for calls without it.
            with casting(patcher.load_device, autocast):
                result = bound()
            # Moving the result waits for the device, so the time is the module's own.
            result = on_device(result, torch.device("cpu"))
        return Computed(result, prepared_s + load_s + placed - started, perf_counter() - placed)

    def sample(
        self, job: SampleJob, tensors: Mapping[str, Any], report: Report, *, patches: PatchSet | None = None
    ) -> Computed:
        """See `Backend`, and `sampling` for the tree."""
        if not self._kinds.kind_of(job.model).can_sample:
            raise ModelRunError(
                f"{job.model.name!r:.260} is no diffusion model and cannot be sampled: choose another."
            )
        # Half a second of imports, which a worker does not need to start, or for calls of a step.
        sampling = importlib.import_module(".sampling", __package__)
        sampling.check_names(job)
        with torch.inference_mode(), model_errors(job.model.name, self.pool.free_memory):
            started = perf_counter()
            # ControlNets before the model, as in a call.
            inputs = sampling.Inputs.of(tensors).with_control_nets(self._load_module)
            nets_s = perf_counter() - started
            loaded, patcher, load_s = self.pool.load_patched(job.model, job.fingerprint, patches)
            loaded.hooks.remove()
            started = perf_counter()
            with first_call(patcher.model.diffusion_model) as began:
                result = sampling.run(patcher, job, inputs, report, self._interrupted)
            computing = began[0] if began else started  # before it, ComfyUI brings the weights to the device
        return Computed(result, nets_s + load_s + computing - started, perf_counter() - computing)

    def is_repeatable(self, ref: ModelRef, method: str | None) -> bool:
        """See `Backend`."""
        return method in self._kinds.kind_of(ref).repeatable

    def interrupt(self) -> None:
        """See `Backend`. Takes effect at the module's next block."""
        self._interrupted.set()

    def clear_interrupt(self) -> None:
        """See `Backend`."""
        self._interrupted.clear()

    def close(self) -> None:
        """See `Backend`."""
        self.pool.clear()

    def _load_module(self, ref: ModelRef, fingerprint: str) -> RunnableModule:
        loaded: LoadedModule
        loaded, _ = self.pool.load_same(ref, fingerprint)
        return loaded.module

    def _place(self, patcher: Any, call: MethodCall) -> None:
        """Have ComfyUI bring the weights to the device, with room for this call's activations."""
        needed = call.memory_required(patcher)
        self._management.load_models_gpu([patcher, *call.companions()], memory_required=needed)
        if hasattr(patcher.model, "current_patcher"):
            patcher.model.current_patcher = patcher
