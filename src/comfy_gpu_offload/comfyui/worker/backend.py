"""The comfyui backend: whatever that ComfyUI can load, loaded, moved and run by its own code."""

from __future__ import annotations

import gc
import importlib
import logging
import threading
from collections.abc import Collection, Hashable, Mapping, Sequence
from pathlib import Path
from time import perf_counter
from typing import Any, Protocol

import psutil
import torch

from ...backends.base import (
    BackendInfo,
    Computed,
    Described,
    HookSet,
    Listing,
    ModelMismatchError,
    ModelRunError,
    PatchSet,
    Report,
    casting,
    first_call,
    model_errors,
    on_device,
    stop_at_blocks,
)
from ...backends.fingerprints import fingerprint
from ...backends.model_folders import SkipLog, Skips
from ...backends.resident_models import Resident, ResidentModels
from ...errors import UnsupportedValueError
from ...io import tree
from ...protocol.messages import Autocast, ModelDescription, ModelEntry, ModelRef, SampleJob
from ..installation import import_comfyui
from ..wire.auxiliary_weights import weights_beside
from ..wire.control_data import PREFIX, net_of
from ..wire.control_outputs import from_data
from ..wire.network_methods import called
from ..wire.patch_reader import merged_models
from ..wire.stock_patches import options_from_data
from .load_warnings import warnings_while_loading
from .patched_clones import LoadedModel

logger = logging.getLogger(__name__)


class _Resident(Resident, Protocol):
    """What stays in memory between calls."""

    @property
    def path(self) -> Path: ...

    @property
    def fingerprint(self) -> str: ...

    def release(self) -> None: ...


class ComfyUIBackend:
    """See `Backend`.

    Args:
        root: the ComfyUI folder.
        models_dir: a further folder, with diffusion_models/ and checkpoints/ in it or models itself.
        extra_model_paths: further files of the form of ComfyUI's extra_model_paths.yaml.
        cpu: use no GPU.
        model_bytes: what loaded models may take of this machine's memory; 0 for as much as it has.
    """

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
        import_comfyui.add_model_folders(root, models_dir, extra_model_paths)
        self._management = importlib.import_module("comfy.model_management")
        self._files = importlib.import_module("..installation.model_files", __package__)
        self._nets = importlib.import_module("..installation.control_net_files", __package__)
        self._chains = importlib.import_module(".control_chains", __package__)
        self._residents: ResidentModels[Any] = ResidentModels(model_bytes, _available_bytes, self._unload)
        self._interrupted = threading.Event()
        self._skip_log = SkipLog()

    def info(self) -> BackendInfo:
        """See `Backend`."""
        device = self._management.get_torch_device()
        name = torch.cuda.get_device_name(device) if device.type == "cuda" else device.type.upper()
        return BackendInfo("comfyui", name, self._version, self._files.folders())

    def listing(self) -> Listing:
        """See `Backend`."""
        skips = Skips()
        files = (*self._files.find_models(skips), *self._nets.find_control_nets(skips))
        skipped = tuple(skips.entries.values())
        self._skip_log.log(skipped)
        entries = (ModelEntry(name=file.name, folder=file.folder, size_bytes=file.size_bytes) for file in files)
        return Listing(tuple(entries), skipped)

    def describe(self, ref: ModelRef) -> Described:
        """See `Backend`. Details: see `_details`, and for a control net `control_net_files.describe`."""
        if ref.name.startswith(PREFIX):
            return self._described_net(ref)
        loaded, _ = self._load(ref)
        model = loaded.patcher.model
        description = ModelDescription(
            ref=ref,
            fingerprint=loaded.fingerprint,
            compute_dtype=str(_inference_dtype(model)).removeprefix("torch."),
            warnings=loaded.warnings,
        )
        return Described(description, _details(model, ref.name))

    def forward(
        self,
        ref: ModelRef,
        fingerprint: str,
        args: tuple[Any, ...],
        kwargs: Mapping[str, Any],
        *,
        patches: PatchSet | None = None,
        hooks: HookSet | None = None,
        autocast: Autocast | None = None,
    ) -> Computed:
        """See `Backend`. In `kwargs`, ``control`` is as `wire.control_data` has it."""
        control = kwargs.get("control")
        started = perf_counter()
        if autocast is not None and net_of(control) is not None:
            raise ModelRunError("A ControlNet at the worker is not computed under torch.autocast: leave that out.")
        # First, so that the model is the last to leave memory for them.
        chain = self._chains.read_chain(control, self._net)
        nets_s = perf_counter() - started
        with torch.inference_mode(), model_errors(ref.name, self._free):
            loaded, patcher, load_s = self._patched(ref, fingerprint, patches)
            started = perf_counter()
            loaded.hooks.placed(patcher, hooks, lambda: self._place(patcher, args, chain))
            kwargs = {**kwargs, **({} if control is None else {"control": None})}
            call_args, call_kwargs = on_device((args, kwargs), patcher.load_device)
            self._localise(patcher, call_kwargs)
            placed = perf_counter()
            if chain is not None:
                call_kwargs["control"] = chain.compute(patcher, call_args[0] if call_args else None)
            elif control is not None:
                call_kwargs["control"] = on_device(from_data(control), patcher.load_device)
            # Around the network alone: weights that are patched meanwhile stay for calls without.
            with casting(patcher.load_device, autocast):
                result = called(patcher.model.diffusion_model, call_kwargs)(*call_args, **call_kwargs)
            # Moving the result waits for the device, so the time is the model's own.
            result = on_device(result, torch.device("cpu"))
        return Computed(result, nets_s + load_s + placed - started, perf_counter() - placed)

    def sample(
        self, job: SampleJob, tensors: Mapping[str, Any], report: Report, *, patches: PatchSet | None = None
    ) -> Computed:
        """See `Backend`, and `sampling` for the tree."""
        # Half a second of imports, which a worker does not need to start, or for calls of a step.
        sampling = importlib.import_module(".sampling", __package__)
        sampling.check_names(job)
        with torch.inference_mode(), model_errors(job.model.name, self._free):
            started = perf_counter()
            inputs = sampling.Inputs.of(tensors)
            # Before the model, as in a call.
            inputs = inputs.controlled(self._chains.build(inputs.control_nets, self._net))
            nets_s = perf_counter() - started
            loaded, patcher, load_s = self._patched(job.model, job.fingerprint, patches)
            loaded.hooks.remove()
            started = perf_counter()
            with first_call(patcher.model.diffusion_model) as began:
                result = sampling.run(patcher, job, inputs, report, self._interrupted)
            computing = began[0] if began else started  # before it, ComfyUI brings the weights to the device
        return Computed(result, nets_s + load_s + computing - started, perf_counter() - computing)

    def interrupt(self) -> None:
        """See `Backend`. Takes effect at the model's next block."""
        self._interrupted.set()

    def clear_interrupt(self) -> None:
        """See `Backend`."""
        self._interrupted.clear()

    def close(self) -> None:
        """See `Backend`."""
        self._residents.clear()

    def _place(self, patcher: Any, args: tuple[Any, ...], chain: Any) -> None:
        """Has ComfyUI bring the weights to the device, with room for this call's activations."""
        latent = tree.first_tensor(args)
        needed = 0 if latent is None else patcher.memory_required(list(latent.shape))
        models = [patcher]
        if chain is not None:
            models += chain.models()
            needed += chain.memory_required(_inference_dtype(patcher.model))
        self._management.load_models_gpu(models, memory_required=needed)
        if hasattr(patcher.model, "current_patcher"):
            patcher.model.current_patcher = patcher

    def _patched(self, ref: ModelRef, fingerprint: str, patches: PatchSet | None) -> tuple[LoadedModel, Any, float]:
        """The model, its patcher or a clone of that with these patches, and the seconds that loading took."""
        merged = [] if patches is None else merged_models(patches)
        in_use = {ref, *(second for second, _ in merged)}
        loaded, load_s = self._current(ref, fingerprint, in_use)
        self._unhook_all_but(loaded)
        if patches is None:
            return loaded, loaded.patcher, load_s
        seconds = []
        for second, its_fingerprint in merged:
            found, second_s = self._current(second, its_fingerprint, in_use)
            seconds.append(found)
            load_s += second_s
        return loaded, loaded.patched(patches, seconds), load_s

    def _unhook_all_but(self, loaded: LoadedModel) -> None:
        """Hooks change weights where they lie: a model that these are merged into would get them changed."""
        for other in self._residents:
            if isinstance(other, LoadedModel) and other is not loaded:
                other.hooks.remove()

    def _free(self) -> None:
        """Frees what can be had again."""
        for each in self._residents:
            if isinstance(each, LoadedModel):
                each.hooks.free()
        self._management.soft_empty_cache()

    def _localise(self, patcher: Any, kwargs: dict[str, Any]) -> None:
        """Makes patches of the network of what is said of them.

        What `BaseModel._apply_model` says of the weights' place is this machine's to say.
        """
        options = kwargs.get("transformer_options")
        if not isinstance(options, dict):
            return
        kwargs["transformer_options"] = options = options_from_data(options)
        if "prefetch_dynamic_vbars" in options:
            # A client's ComfyUI may be newer than this one, which then has no dynamic loading.
            options["prefetch_dynamic_vbars"] = getattr(patcher, "is_dynamic", bool)()

    def _current(
        self, ref: ModelRef, fingerprint: str, in_use: Collection[Hashable] = ()
    ) -> tuple[LoadedModel, float]:
        loaded, load_s = self._load(ref, in_use)
        if loaded.fingerprint != fingerprint:
            raise ModelMismatchError(
                f"The worker's {ref.name!r} has changed since it was loaded. Queue the prompt again to load it."
            )
        return loaded, load_s

    def _load(self, ref: ModelRef, in_use: Collection[Hashable] = ()) -> tuple[LoadedModel, float]:
        def make(file: Any) -> LoadedModel:
            with warnings_while_loading(file.path) as warnings:
                patcher = self._files.load_patcher(file, ref.weight_dtype)
            stop_at_blocks(patcher.model.diffusion_model, self._interrupted)
            return LoadedModel(patcher, file.path, fingerprint([file.path]), tuple(warnings))

        return self._residents.load(ref, lambda: self._files.find_model(ref.name), make, in_use)

    def _net(self, name: str, expected: str | None = None) -> Any:
        """The control net of that name, and, where it is given, of that fingerprint."""

        def make(file: Any) -> Any:
            with warnings_while_loading(file.path) as warnings:
                net = self._nets.load_control_net(file)
            network = self._nets.network_of(net)
            if network is not None:
                stop_at_blocks(network, self._interrupted)
            return self._chains.LoadedNet(net, file.path, fingerprint([file.path]), tuple(warnings))

        loaded, _ = self._residents.load(
            ModelRef(name=PREFIX + name), lambda: self._nets.find_control_net(name), make
        )
        if expected not in {None, loaded.fingerprint}:
            raise ModelMismatchError(
                f"The worker's ControlNet {name!r} has changed since it was loaded. Queue the prompt again."
            )
        return loaded

    def _described_net(self, ref: ModelRef) -> Described:
        loaded = self._net(ref.name.removeprefix(PREFIX))
        dtype = self._nets.compute_dtype(loaded.net) or torch.float32
        description = ModelDescription(
            ref=ref,
            fingerprint=loaded.fingerprint,
            compute_dtype=str(dtype).removeprefix("torch."),
            warnings=loaded.warnings,
        )
        return Described(description, self._nets.describe(loaded.net))

    def _unload(self, loaded: _Resident) -> None:
        logger.info("%s leaves memory", loaded.path.name)
        if isinstance(loaded, LoadedModel):
            for other in self._residents:
                if isinstance(other, LoadedModel):
                    other.forget(loaded)
        loaded.release()
        # ComfyUI holds its patchers weakly; models have cycles, so only a collection frees them now.
        del loaded
        gc.collect()
        self._management.soft_empty_cache()


def _available_bytes() -> int:
    return int(psutil.virtual_memory().available)


def _inference_dtype(model: Any) -> torch.dtype:
    """The dtype in which ComfyUI hands inputs to the network; 0.3.64 has no method for it."""
    dtype: torch.dtype
    if hasattr(model, "get_dtype_inference"):
        dtype = model.get_dtype_inference()
    else:
        dtype = model.manual_cast_dtype or model.get_dtype()
    return dtype


def _details(model: Any, name: str) -> dict[str, Any]:
    """What a client builds its stand-in from: the config that ComfyUI detected, and every key it has."""
    config = model.model_config
    details = {
        "config_class": type(config).__name__,
        "unet_config": config.unet_config,
        "sampling_settings": config.sampling_settings,
        "model_type": model.model_type.name,
        "weight_dtype": model.get_dtype(),
        "manual_cast_dtype": model.manual_cast_dtype,
        "keys": {
            key: (tuple(tensor.shape), tensor.dtype) for key, tensor in model.diffusion_model.state_dict().items()
        },
    }
    if beside := weights_beside(model):
        details["beside"] = beside
    try:
        tree.pack(details, "details")
    except UnsupportedValueError as error:
        raise ModelRunError(f"The configuration of {name!r} cannot travel: {error}") from error
    return details
