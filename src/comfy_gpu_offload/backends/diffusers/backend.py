"""The diffusers backend: models of the diffusers library, and the bundled digits model. Needs no ComfyUI."""

from __future__ import annotations

import json
import threading
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from time import perf_counter
from typing import Any

import psutil
import torch

from ...io.tree import map_tensors
from ...protocol.messages import FORWARD, ModelDescription, ModelEntry, ModelRef, SampleJob
from ..base import (
    Backend,
    BackendInfo,
    BadPatchesError,
    Computed,
    Described,
    HookSet,
    Listing,
    ModelMismatchError,
    ModelNotFoundError,
    ModelRunError,
    ModuleCall,
    PatchSet,
    Report,
    computing_for,
    model_errors,
    on_device,
    stop_at_blocks,
)
from ..fingerprints import fingerprint
from ..model_folders import SkipLog, Skips
from ..resident_models import ResidentModels
from ..weight_files import check_weight_file
from .methods import METHODS, method, methods_of, plain
from .model_files import DiffusersModel, choose_dtype, find_models, load

DIGITS = "digits"
_CPU = torch.device("cpu")


@dataclass(frozen=True)
class _Loaded:
    module: torch.nn.Module
    files: tuple[Path, ...]
    fingerprint: str
    dtype: torch.dtype

    def is_current(self) -> bool:
        """Return whether the files are still those that the model was loaded from."""
        try:
            return fingerprint(self.files) == self.fingerprint
        except OSError:
            return False


def _bundled_folder() -> Path | None:
    """Return the bundled digits model's folder; None where the demo is not part of this installation."""
    try:
        from ...digits.model import FOLDER  # noqa: PLC0415
    except ModuleNotFoundError:
        return None
    return FOLDER


class DiffusersBackend(Backend):
    """See `Backend`.

    Args:
        models_path: a model's folder or file, or a folder of models; None for the bundled model alone, if any.
        device: where models run; None for CUDA where there is one.
        model_bytes: what loaded models may take; 0 for as much as memory allows.
    """

    def __init__(
        self, models_path: Path | None = None, *, device: torch.device | None = None, model_bytes: int = 0
    ) -> None:
        self._path = models_path
        self._device = device or torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self._residents: ResidentModels[_Loaded] = ResidentModels(model_bytes, self._available, self._unload)
        self._interrupted = threading.Event()
        self._skip_log = SkipLog()

    def info(self) -> BackendInfo:
        """See `Backend`."""
        name = torch.cuda.get_device_name(self._device) if self._device.type == "cuda" else "CPU"
        return BackendInfo("diffusers", name, folders=() if self._path is None else (str(self._path.absolute()),))

    def listing(self) -> Listing:
        """See `Backend`. Looks anew each time, so that a model that was added is found."""
        skips = Skips()
        models = tuple(
            ModelEntry(name=model.name, folder="diffusers", size_bytes=model.size_bytes)
            for model in self._found(skips).values()
        )
        skipped = tuple(skips.entries.values())
        self._skip_log.log(skipped)
        return Listing(models, skipped)

    def _found(self, skips: Skips) -> dict[str, DiffusersModel]:
        folder = _bundled_folder()
        bundled = () if folder is None else (replace(model, name=DIGITS) for model in find_models(folder, skips))
        found = () if self._path is None else find_models(self._path, skips)
        return {model.name: model for model in (*bundled, *found)}

    def describe(self, ref: ModelRef) -> Described:
        """See `Backend`. Details: ``{"class": the class's name, "config": the model's config, "methods": …}``."""
        loaded, _ = self._load(ref)
        own = getattr(loaded.module, "config", {})
        given = own.to_dict() if hasattr(own, "to_dict") else dict(own)
        config = json.loads(json.dumps(given, default=str))
        description = ModelDescription(
            ref=ref,
            fingerprint=loaded.fingerprint,
            compute_dtype=str(loaded.dtype).removeprefix("torch."),
        )
        public = {key: value for key, value in config.items() if key != "_name_or_path"}
        details = {"class": type(loaded.module).__name__, "config": public, "methods": methods_of(loaded.module)}
        return Described(description, details)

    def refuse_modules(self, ref: ModelRef, method: str | None = None) -> None:
        """See `Backend`. The methods of autoencoders are called by name; what else lacks them refuses the call."""
        if method not in {None, FORWARD, *METHODS}:
            raise ModelRunError(f"A diffusers worker calls no method {method!r:.80} of a model: use {FORWARD}.")
        super().refuse_modules(ref)

    def forward(self, call: ModuleCall) -> Computed:
        """See `Backend`."""
        _refuse_patches(call.patches, call.hooks)
        loaded, load_s = self._current(call.ref, call.fingerprint)
        started = perf_counter()
        with computing_for(self._device, call.autocast), model_errors(call.ref.name, torch.cuda.empty_cache):
            moved = on_device((call.args, dict(call.kwargs)), self._device)
            result = plain(method(loaded.module, call.method)(*moved[0], **moved[1]))
            result = _on_cpu(result)
        return Computed(result, load_s, perf_counter() - started)

    def sample(
        self, job: SampleJob, tensors: Mapping[str, Any], report: Report, *, patches: PatchSet | None = None
    ) -> Computed:
        """See `Backend`, and `sampling` for the tree."""
        _refuse_patches(patches)
        try:
            from . import sampling  # noqa: PLC0415
        except ImportError as error:
            raise ModelRunError(
                "The demo is not part of the worker's installation, and a diffusers worker runs whole loops by its "
                "sampler: run each step instead, or install comfy-gpu-offload[demo] there."
            ) from error
        loaded, load_s = self._current(job.model, job.fingerprint)
        started = perf_counter()
        with torch.inference_mode(), model_errors(job.model.name, torch.cuda.empty_cache):
            result = sampling.run(
                loaded.module,
                job,
                tensors,
                report,
                dtype=loaded.dtype,
                device=self._device,
                interrupted=self._interrupted.is_set,
            )
        return Computed(result, load_s, perf_counter() - started)

    def interrupt(self) -> None:
        """See `Backend`. Takes effect at the model's next block."""
        self._interrupted.set()

    def clear_interrupt(self) -> None:
        """See `Backend`."""
        self._interrupted.clear()

    def close(self) -> None:
        """See `Backend`."""
        self._residents.clear()

    def _current(self, ref: ModelRef, fingerprint: str) -> tuple[_Loaded, float]:
        loaded, load_s = self._load(ref)
        if loaded.fingerprint != fingerprint:
            raise ModelMismatchError(
                f"The worker's {ref.name!r} has changed since this session began: load the model again."
            )
        return loaded, load_s

    def _load(self, ref: ModelRef) -> tuple[_Loaded, float]:
        def make(model: DiffusersModel) -> _Loaded:
            for file in model.files:
                check_weight_file(file)
            dtype = choose_dtype(model, ref.weight_dtype, self._device)
            module = load(model, dtype, self._device)
            stop_at_blocks(module, self._interrupted)
            return _Loaded(module, model.files, fingerprint(model.files), dtype)

        return self._residents.load(ref, lambda: self._find(ref.name), make)

    def _find(self, name: str) -> DiffusersModel:
        found = self._found(Skips())
        if name not in found:
            raise ModelNotFoundError(
                f"There is no model {name!r} here. Looked in {self._path or 'the bundled models only'}; "
                f"there are {', '.join(found)}."
            )
        return found[name]

    def _available(self) -> int:
        if self._device.type == "cuda":
            return int(torch.cuda.mem_get_info(self._device)[0])
        return int(psutil.virtual_memory().available)

    def _unload(self, loaded: _Loaded) -> None:
        loaded.module.to("meta")
        if self._device.type == "cuda":
            torch.cuda.empty_cache()


def _refuse_patches(*named: PatchSet | HookSet | None) -> None:
    if any(each is not None for each in named):
        raise BadPatchesError("This worker runs diffusers models, and patches no weights: use a comfyui worker.")


def _on_cpu(result: Any) -> Any:
    """Return the model's result on the CPU; diffusers' output classes are kept, for the tree to name."""
    if isinstance(result, dict):
        for key, value in result.items():
            result[key] = _on_cpu(value)
        return result
    return on_device(map_tensors(result, torch.Tensor.detach), _CPU)
