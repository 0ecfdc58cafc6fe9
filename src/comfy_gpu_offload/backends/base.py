"""The interface of a backend, which lists, loads and runs models on one device; its errors and shared helpers."""

from __future__ import annotations

import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from time import perf_counter
from typing import Any, ClassVar, Protocol

import torch

from ..io.buffers import aligned
from ..io.strides import moved
from ..io.tree import map_tensors
from ..protocol.messages import FORWARD, Autocast, ModelDescription, ModelEntry, ModelRef, SampleJob, SkippedEntry

_OUT_OF_MEMORY = ("out of memory", "DefaultCPUAllocator")


@dataclass(frozen=True)
class BackendInfo:
    """A backend, as the handshake describes it.

    Attributes:
        comfyui: the release of its ComfyUI, where it has one.
        folders: the folders that models are looked for in.
    """

    name: str
    device: str
    comfyui: str | None = None
    folders: tuple[str, ...] = ()


@dataclass(frozen=True)
class Listing:
    """The files that a backend can load, and those that it passed over, with reasons.

    Attributes:
        models: every client is told of these.
        modules: further kinds of modules. Clients of older releases would take them for models.
    """

    models: tuple[ModelEntry, ...]
    skipped: tuple[SkippedEntry, ...] = ()
    modules: tuple[ModelEntry, ...] = ()


@dataclass(frozen=True)
class ModelFolder:
    """A folder that new model files may be put into.

    Attributes:
        path: is made if it is missing.
        suffixes: of the files that the backend lists there, in lower case.
    """

    path: Path
    suffixes: frozenset[str]


@dataclass(frozen=True)
class Described:
    """A loaded model: the description that every client reads, and details for a client of the same kind.

    `details` is a tree (io.tree): for ``comfyui`` the facts that a stand-in is built from, for ``diffusers`` the
    model's config.
    """

    description: ModelDescription
    details: Any


@dataclass(frozen=True)
class Computed:
    """The result of a call. Times in seconds; `load_s` is above 0 when weights had to be loaded."""

    result: Any
    load_s: float
    compute_s: float


@dataclass(frozen=True)
class PatchSet:
    """Changes to a model's weights, as a client named them.

    Attributes:
        name: digest of the template.
        template: see `wire.patch_form`. As it came over the wire, not checked yet.
        strengths: pairs that the template refers to by position: of a patch, and of the weight that it is added to.
        tensors: the tensors that the template names, by digest. Not to be written to.
    """

    name: bytes
    template: Any
    strengths: tuple[tuple[float, float], ...]
    tensors: Mapping[bytes, torch.Tensor]


@dataclass(frozen=True)
class HookSet:
    """Changes by hooks to a model's weights over its patches, as a client named them.

    Attributes:
        patches: None in a call without hooks, within a run that has some.
        single: positions of the strengths that are float32 tensors. Not checked yet.
        group: as in `protocol.messages.HookRef`.
    """

    patches: PatchSet | None = None
    single: tuple[int, ...] = ()
    group: int | None = None


@dataclass(frozen=True)
class ModuleCall:
    """One call of a module (a diffusion model, a text encoder, a VAE), as a client asked for it.

    Attributes:
        ref, fingerprint: of the module.
        args, kwargs: trees of tensors on the CPU, to which the module may write.
        method: the name of the method that is called.
        patches: changes to the weights for this call alone.
        hooks: changes over those of `patches`.
        autocast: is on around the module, for the backend's own device.
    """

    ref: ModelRef
    fingerprint: str
    args: tuple[Any, ...] = ()
    kwargs: Mapping[str, Any] = field(default_factory=dict)
    method: str = FORWARD
    patches: PatchSet | None = None
    hooks: HookSet | None = None
    autocast: Autocast | None = None


class Report(Protocol):
    """A function that is told of a run's progress, on the thread that runs it."""

    def __call__(self, step: int, of: int, preview: Callable[[], bytes | None]) -> None:
        """Note that `step` of `of` steps are done.

        Args:
            preview: makes an encoded picture of the run so far, where one is wanted.
        """


class BackendError(Exception):
    """A backend's refusal, which the handler turns into a fault. The message is for the user."""


class ModelNotFoundError(BackendError):
    """No model of that name; the message says where it was looked for."""


class ModelMismatchError(BackendError):
    """The model is not the one the client described."""


class ModelRunError(BackendError):
    """The model could not be loaded, or raised."""


class ModelFileError(ModelRunError):
    """A model's file cannot be loaded. The message tells of the file alone, so it may stand in a log."""


class OutOfMemoryError(BackendError):
    """The device, or this machine, has too little memory."""


class BadPatchesError(BackendError):
    """Weight patches that are malformed, or do not fit the model."""


class InterruptedCallError(BackendError):
    """The call was interrupted by `Backend.interrupt`."""


class Backend(ABC):
    """The base of all backends.

    All methods but `interrupt`, `listing`, `model_folders` and `info` are called one at a time, each from any
    thread. A method that not every backend has gets a default here, which refuses what it cannot do by a
    `BackendError` that says so.

    Attributes:
        has_modules: whether it takes `ModelRef`s with further files and options, and calls of other methods than
            ``forward``. Elsewhere such requests are refused before they get here.
    """

    has_modules: ClassVar[bool] = False

    @abstractmethod
    def info(self) -> BackendInfo:
        """Return what the handshake says of this backend."""

    @abstractmethod
    def listing(self) -> Listing:
        """Return every model that can be loaded, and what was passed over; cheap, and loads nothing.

        A bad entry in a folder of models is passed over, and never raises.
        """

    def model_folders(self) -> Mapping[str, ModelFolder]:
        """Return the folders that single files may be put into, by ComfyUI's names of them; by default none.

        Called from any thread.
        """
        return {}

    def unload(self, path: Path) -> None:  # noqa: B027  # a default, not a part that is missing
        """Let what is loaded from that file leave memory, because the file is about to be removed."""

    @abstractmethod
    def describe(self, ref: ModelRef) -> Described:
        """Load the model if it is not loaded, and describe it.

        Raises:
            ModelNotFoundError: no such model.
            ModelRunError: it cannot be loaded.
            OutOfMemoryError: it does not fit.
        """

    @abstractmethod
    def forward(self, call: ModuleCall) -> Computed:
        """Call a method of the module; load it first if need be.

        Raises:
            BadPatchesError: the call's patches or hooks do not fit the module, which is as it was.
            ModelMismatchError: the model has another fingerprint.
            InterruptedCallError: `interrupt` was called meanwhile.
            BackendError: as `describe`, or the model raised.
        """

    def sample(
        self, job: SampleJob, tensors: Mapping[str, Any], report: Report, *, patches: PatchSet | None = None
    ) -> Computed:
        """Run a whole sampling loop; the result is the final latent, on the CPU. By default refused.

        `tensors` is the job's tree. `report` is called after each step. `patches` as in `forward`.

        Raises:
            ModelRunError: this backend has no such sampler, or the model raised.
            InterruptedCallError: `interrupt` was called meanwhile; at most one model call later.
            BackendError: as `forward`.
        """
        raise ModelRunError(
            f"This worker's backend ({self.info().name}) runs no whole loops: run each step instead (Remote "
            "Sampler, offload: each step)."
        )

    def refuse_modules(self, ref: ModelRef, method: str | None = None) -> None:
        """Refuse a request of a form that only backends with modules of several kinds take.

        Raises:
            ModelRunError: this backend has none, and would ignore a part of the request.
        """
        if not self.has_modules and (ref.has_later_fields or method not in {None, FORWARD}):
            raise ModelRunError(
                f"This worker's backend ({self.info().name}) has models alone, and calls nothing but their forward "
                "pass: start the worker with --backend comfyui."
            )

    def is_repeatable(self, ref: ModelRef, method: str | None) -> bool:
        """Return whether a method's result depends on nothing but the call's arguments, patches and hooks.

        By default of none: a result is then never given in place of computing.
        """
        return False

    def interrupt(self) -> None:  # noqa: B027  # a default, not a part that is missing
        """Ask the running call to end soon; by default it runs to its end.

        Called from any thread, under the executor's lock and only while a call runs: it must not block.
        """

    def clear_interrupt(self) -> None:  # noqa: B027
        """Take `interrupt` back. Called before each call, under the executor's lock, never while a call runs."""

    def close(self) -> None:  # noqa: B027
        """Free all weights; by default there is nothing to free."""


def on_device(tree: Any, device: torch.device) -> Any:
    """Return the tree with every tensor on `device`, strides kept, in memory fit to compute with (`aligned`)."""
    return map_tensors(tree, lambda tensor: aligned(moved(tensor, device)))


def casting(device: torch.device, autocast: Autocast | None) -> AbstractContextManager[object]:
    """Return `torch.autocast` for that device; for None, what does nothing."""
    if autocast is None:
        return nullcontext()
    return torch.autocast(device.type, dtype=autocast.torch_dtype, cache_enabled=autocast.caches)


@contextmanager
def computing_for(device: torch.device, autocast: Autocast | None) -> Iterator[None]:
    """Compute as a caller under `autocast` does, with weights that require gradients.

    Without it all modes compute the same; with it they do not, since cast copies of weights have gradients or not.
    """
    gradients = "inference" if autocast is None else autocast.gradients
    inference, on = gradients == "inference", gradients == "on"
    with torch.inference_mode(inference), torch.set_grad_enabled(on), casting(device, autocast):
        yield


def stop_at_blocks(module: torch.nn.Module, interrupted: threading.Event) -> None:
    """Make `module` raise `InterruptedCallError` at its next call or block once `interrupted` is set.

    Blocks are the members of module lists, as every diffusion network has them.
    """

    def stop(*_: object) -> None:
        if interrupted.is_set():
            raise InterruptedCallError("The call was cancelled.")

    module.register_forward_pre_hook(stop)
    for part in module.modules():
        if isinstance(part, torch.nn.ModuleList):
            for block in part:
                block.register_forward_pre_hook(stop)


@contextmanager
def first_call(module: torch.nn.Module) -> Iterator[list[float]]:
    """Give a list that holds the time of the module's first call within the block, once it was called."""
    began: list[float] = []

    def note(*_: object) -> None:
        if not began:
            began.append(perf_counter())

    hook = module.register_forward_pre_hook(note)
    try:
        yield began
    finally:
        hook.remove()


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether memory ran out, of the device or of the machine."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    # Errors within a GPU's kernels, and on the CPU, have no class of their own in torch.
    return isinstance(error, RuntimeError) and any(sign in str(error) for sign in _OUT_OF_MEMORY)


def no_room_for(name: str) -> OutOfMemoryError:
    """Return the error of a file that does not fit into memory."""
    return OutOfMemoryError(
        f"There is too little memory to load {name!r}. Choose an fp8 weight_dtype in the loader, a smaller "
        "file, or a worker with more memory."
    )


@contextmanager
def model_errors(name: str, free_memory: Callable[[], None]) -> Iterator[None]:
    """Map errors of a model to those of this module; `free_memory` is called when memory ran out."""
    try:
        yield
    except BackendError:
        raise
    except Exception as error:
        if is_out_of_memory(error):
            free_memory()
            raise OutOfMemoryError(
                f"The worker's device has too little memory for this call to {name!r}. Sample a smaller latent or "
                "batch, choose an fp8 weight_dtype in the loader, or use a worker with more memory."
            ) from error
        text = f"{type(error).__name__}: {str(error)[:500]}"
        raise ModelRunError(f"The model {name!r} raised {text}") from error
