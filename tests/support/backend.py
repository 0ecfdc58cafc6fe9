"""A backend whose models are plain functions."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from typing import Any

import torch

from comfy_gpu_offload.backends.base import (
    Backend,
    BackendInfo,
    Computed,
    Described,
    HookSet,
    InterruptedCallError,
    Listing,
    ModelMismatchError,
    ModelNotFoundError,
    ModuleCall,
    PatchSet,
    Report,
    casting,
    model_errors,
    on_device,
)
from comfy_gpu_offload.protocol.messages import FORWARD, ModelDescription, ModelEntry, ModelRef, SampleJob

FINGERPRINT = "f" * 16
Function = Callable[..., Any]


class FunctionBackend(Backend):
    """See `Backend`. `calls` holds the arguments of every call that began, `patches` and `hooks` its weights'.

    A function ``name.method`` is another method of the model `name`. Methods that are called ``encode`` are
    repeatable.
    """

    has_modules = True

    def __init__(self, **functions: Function) -> None:
        self.functions: dict[str, Function] = {
            "echo": lambda x, *_, **__: x,
            "double": lambda x, *_, **__: x * 2,
            "wait": self._wait,
            **functions,
        }
        self.patches: list[PatchSet | None] = []
        self.hooks: list[HookSet | None] = []
        self.calls: list[tuple[str, tuple[Any, ...], dict[str, Any]]] = []
        self.started = threading.Event()
        self.release = threading.Event()
        self.interrupted = threading.Event()
        self.closed = False
        self.steps_done = 0
        self.fingerprint = FINGERPRINT

    def _wait(self, x: torch.Tensor, *_: Any, **__: Any) -> torch.Tensor:
        """Compute until released or interrupted."""
        self.started.set()
        while not self.release.wait(0.01):
            if self.interrupted.is_set():
                raise InterruptedCallError("The call was cancelled.")
        return x

    def info(self) -> BackendInfo:
        return BackendInfo("function", "test device", folders=("/srv/models",))

    def listing(self) -> Listing:
        return Listing(
            tuple(ModelEntry(name=name, folder="diffusion_models", size_bytes=0) for name in self.functions)
        )

    def is_repeatable(self, ref: ModelRef, method: str | None) -> bool:
        return method == "encode"

    def describe(self, ref: ModelRef) -> Described:
        if ref.name not in self.functions:
            raise ModelNotFoundError(f"There is no model {ref.name!r}.")
        description = ModelDescription(ref=ref, fingerprint=self.fingerprint, compute_dtype="float32")
        return Described(description, {"config": {"in_channels": 4}})

    def forward(self, call: ModuleCall) -> Computed:
        if call.fingerprint != self.fingerprint:
            raise ModelMismatchError("The model has changed.")
        name = call.ref.name if call.method == FORWARD else f"{call.ref.name}.{call.method}"
        self.describe(call.ref)
        self.calls.append((name, call.args, dict(call.kwargs)))
        self.patches.append(call.patches)
        self.hooks.append(call.hooks)
        with model_errors(name, lambda: None):
            placed = on_device((call.args, dict(call.kwargs)), torch.device("cpu"))
            with casting(torch.device("cpu"), call.autocast):
                return Computed(self.functions[name](*placed[0], **placed[1]), 0.0, 1e-5)

    def sample(
        self, job: SampleJob, tensors: Mapping[str, Any], report: Report, *, patches: PatchSet | None = None
    ) -> Computed:
        """Add the seed to the latent at each step. The sampler's name is the model function of a step."""
        if job.fingerprint != self.fingerprint:
            raise ModelMismatchError("The model has changed.")
        self.calls.append((job.sampler, (job,), dict(tensors)))
        self.patches.append(patches)
        latent = tensors["latent"]
        with model_errors(job.model.name, lambda: None):
            for step in range(1, job.steps + 1):
                if self.interrupted.is_set():
                    raise InterruptedCallError("The run was cancelled.")
                latent = self.functions[job.sampler](latent) + job.seed
                self.steps_done = step
                report(step, job.steps, lambda step=step: b"picture %d" % step)  # type: ignore[misc]
        return Computed(latent, 0.0, 1e-5)

    def interrupt(self) -> None:
        self.interrupted.set()

    def clear_interrupt(self) -> None:
        self.interrupted.clear()

    def close(self) -> None:
        self.closed = True
