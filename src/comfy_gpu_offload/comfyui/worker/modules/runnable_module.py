"""The interface of a module at the worker: its files, its listed methods, its weights, its description."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Self

import torch

from ....backends.base import ModelRunError, on_device
from ....protocol.messages import FORWARD, ModelRef

if TYPE_CHECKING:  # it imports ComfyUI
    from ...installation.model_files import FileKind, ModelFile

# Checks a call's positional and keyword arguments; raises ModelRunError where they are not of the method's form.
Check = Callable[[tuple[Any, ...], Mapping[str, Any]], None]
# Loads another module that a call names, if its fingerprint is this one.
LoadModule = Callable[[ModelRef, str], "RunnableModule"]


@dataclass(frozen=True)
class ModuleFiles:
    """The files that a request for a module names, as they were found.

    Attributes:
        ref: the request's reference to the module.
        files: at least one.
        size_bytes: of memory that the module will take, roughly.
    """

    ref: ModelRef
    files: tuple[ModelFile, ...]
    size_bytes: int

    @property
    def name(self) -> str:
        """The module's name, for messages."""
        return self.ref.name

    def refuse_weight_dtype(self, things: str) -> None:
        """Refuse a choice of weight dtype where ComfyUI's loader has none.

        Raises:
            ModelRunError: another than the default was chosen.
        """
        if self.ref.weight_dtype != "default":
            raise ModelRunError(f"weight_dtype {self.ref.weight_dtype!r} is unknown for {things}: choose default.")

    @property
    def paths(self) -> tuple[Path, ...]:
        """The paths of the files."""
        return tuple(file.path for file in self.files)


@dataclass(frozen=True)
class MethodCall:
    """A checked call of a listed method. A kind whose calls need more derives from this.

    Attributes:
        method: its name.
        args, kwargs: trees of tensors, on the CPU.
    """

    method: str
    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]

    def moved(self, device: torch.device) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """Return the arguments with their tensors where the method wants them: by default on the device."""
        args, kwargs = on_device((self.args, dict(self.kwargs)), device)
        return args, kwargs

    def companions(self) -> Sequence[Any]:
        """Return the patchers of other modules whose weights have to be on the device in this call."""
        return ()

    def memory_required(self, patcher: Any) -> int:
        """Return the bytes that the call takes on the device beside weights."""
        return 0

    def bind(
        self, module: RunnableModule, patcher: Any, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Callable[[], Any]:
        """Return the call, ready to be made; whatever it needs of other modules is computed here.

        Args:
            patcher: the module's, or a clone of that with weight patches; its weights are on the device.
            args, kwargs: those of the call, as `moved` returns them.

        Raises:
            ModelRunError: this module lacks the method, or something does not fit the module.
        """
        return bound_method(module.callee(patcher), self.method, args, kwargs)


def bound_method(callee: Any, method: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Callable[[], Any]:
    """Return a call of a listed method of `callee`, ready to be made.

    Raises:
        ModelRunError: it lacks the method.
    """
    # Called by itself, so that the hooks on it run.
    function = callee if method == FORWARD else getattr(callee, method, None)
    if not callable(function):
        raise ModelRunError(f"This model has no {method!r}: use the same ComfyUI release on both sides.")
    return lambda: function(*args, **kwargs)


class RunnableModule(ABC):
    """A module in memory; each subclass is a kind of modules, and is listed in `kinds.KINDS`.

    Attributes:
        prefix: what a request puts before the name of a file of this kind.
        files: the folders that files of this kind lie in.
        methods: the methods that a client may call, each with the check of its arguments. ``forward`` calls what
            `callee` returns, and is what a call that names no method asks for.
        repeatable: those of the methods whose results depend on arguments, patches and hooks alone.
        weight_prefix: with what the keys of weights that may be patched begin.
        can_sample: whether whole sampling runs are for this kind.
    """

    prefix: ClassVar[str]
    files: ClassVar[FileKind]
    methods: ClassVar[Mapping[str, Check]] = {}
    repeatable: ClassVar[frozenset[str]] = frozenset()
    weight_prefix: ClassVar[str] = ""
    can_sample: ClassVar[bool] = False

    @classmethod
    def find(cls, ref: ModelRef) -> ModuleFiles:
        """Return the files that a request names; by default one, without options.

        Raises:
            ModelNotFoundError: there is no such file.
            ModelRunError: this kind of module is not loaded in that way.
        """
        file = cls.single_file(ref)
        return ModuleFiles(ref, (file,), file.size_bytes)

    @classmethod
    def single_file(cls, ref: ModelRef) -> ModelFile:
        """Return the one file that a request names, which has no options.

        Raises:
            ModelNotFoundError: there is no such file.
            ModelRunError: the request names further files, or options.
        """
        if ref.has_later_fields:
            raise ModelRunError(
                f"The {cls.files.noun} {ref.name!r:.260} is loaded from one file and without options: use the same "
                "release on both sides."
            )
        return cls.files.find_file(ref.name.removeprefix(cls.prefix))

    @classmethod
    @abstractmethod
    def load(cls, found: ModuleFiles) -> Self:
        """Load the files by ComfyUI's own loader.

        Raises:
            ModelRunError: ComfyUI does not load this kind in that weight dtype.
            ModelFileError: the file cannot be loaded.
            OutOfMemoryError: it does not fit.
        """

    @classmethod
    def prepare(
        cls, method: str, args: tuple[Any, ...], kwargs: Mapping[str, Any], load: LoadModule, *, autocast: bool
    ) -> MethodCall:
        """Return a call whose arguments have been checked, with the other modules that it names loaded by `load`.

        Comes before the module itself is loaded, so that it is the last that leaves memory for the others.

        Args:
            method: one of `methods`.
            autocast: whether the call is made under `torch.autocast`.

        Raises:
            ModelRunError: the arguments are not of the method's form.
            BackendError: as `load`.
        """
        cls.methods[method](args, kwargs)
        return MethodCall(method, args, kwargs)

    @abstractmethod
    def patchers(self) -> list[Any]:
        """Return ComfyUI's patchers of all weights of the module."""

    @property
    def patcher(self) -> Any:
        """The patcher that weight patches, hooks and calls are for."""
        return self.patchers()[0]

    @abstractmethod
    def callee(self, patcher: Any) -> Any:
        """Return the object whose methods are called.

        Args:
            patcher: this module's, or a clone of it, whose patches are on the weights.
        """

    @abstractmethod
    def network(self) -> torch.nn.Module | None:
        """Return what computes, in whose blocks a cancelled call ends; None where there is no such thing."""

    @abstractmethod
    def compute_dtype(self) -> torch.dtype:
        """Return the dtype that the module computes in."""

    @abstractmethod
    def describe(self, name: str) -> dict[str, Any]:
        """Return what a client has to know of the module `name`, as a tree.

        Raises:
            ModelRunError: something of it cannot be sent.
        """

    def release(self) -> None:
        """Give the memory of the module back."""
        for patcher in self.patchers():
            patcher.detach()
