"""Text encoders: a ComfyUI `CLIP` of one or several files, whose composite and parts a call may name."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any, Self

import comfy.model_management
import comfy.sd
import torch

from ....backends.base import ModelRunError, on_device
from ....protocol.messages import FORWARD, ModelRef
from ...installation.model_files import ModelFile
from ...installation.text_encoder_files import TEXT_ENCODERS, load_clip, read_file
from ...wire.file_contents import FileContents, LargeTensor
from ...wire.text_encoder_calls import (
    CPU,
    DEVICE,
    ENCODE,
    FILE_DATA,
    GENERATE,
    OPTIONS,
    PART,
    PREFIX,
    TYPE,
    parts_of,
    set_options,
    weights_digest,
)
from .runnable_module import LoadModule, MethodCall, ModuleFiles, RunnableModule, bound_method

_CPU = torch.device("cpu")
# Of `generate`: ComfyUI's names, and what each may be.
_GENERATING: Mapping[str, tuple[type, ...]] = {
    "do_sample": (bool,),
    "max_length": (int,),
    "temperature": (int, float),
    "top_k": (int,),
    "top_p": (int, float),
    "min_p": (int, float),
    "repetition_penalty": (int, float),
    "presence_penalty": (int, float),
    "seed": (int, type(None)),
}


def _check_encoding(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
    if len(args) != 1 or not isinstance(args[0], dict | list) or kwargs.keys() != {PART, OPTIONS}:
        raise ModelRunError("A call of a text encoder takes tokens and options: use one release on both sides.")


def _check_generating(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
    chosen = {name: value for name, value in kwargs.items() if name not in {PART, OPTIONS}}
    _check_encoding(args, {name: value for name, value in kwargs.items() if name not in chosen})
    for name, value in chosen.items():
        if type(value) not in _GENERATING.get(name, ()):
            raise ModelRunError(f"A text encoder does not generate with {name!r:.80} of that kind.")


def _check_file_data(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
    if len(args) != 1 or not isinstance(args[0], bytes) or kwargs:
        raise ModelRunError("A tensor of a file is asked for by its digest: use one release on both sides.")


class TextEncoder(RunnableModule):
    """A text encoder in memory.

    Args:
        clip: ComfyUI's.
        dtype: in which it was told to keep its weights.
        files: those that it was loaded from.
    """

    prefix = PREFIX
    files = TEXT_ENCODERS
    methods = {  # noqa: RUF012
        ENCODE: _check_encoding,
        FORWARD: _check_encoding,
        GENERATE: _check_generating,
        FILE_DATA: _check_file_data,
    }
    repeatable = frozenset({ENCODE})

    def __init__(self, clip: Any, dtype: torch.dtype, files: Sequence[ModelFile]) -> None:
        self._patcher = clip.patcher
        self._dtype = dtype
        self._contents: list[FileContents] = []
        self.large: dict[bytes, torch.Tensor] = {}
        for file in files:
            tensors, metadata = read_file(file)
            contents = FileContents.of(tensors, metadata)
            self._contents.append(contents)
            for key, value in contents.data.items():
                if isinstance(value, LargeTensor):
                    self.large[value.digest] = tensors[key].clone()

    @classmethod
    def find(cls, ref: ModelRef) -> ModuleFiles:
        """See `RunnableModule`. The options are a `CLIPType` and, for the CPU, a device."""
        options = dict(ref.options)
        if options.get(TYPE) not in comfy.sd.CLIPType.__members__:
            raise ModelRunError(
                f"This worker's ComfyUI knows no type of text encoder {options.get(TYPE)!r:.80}: update it, or "
                "choose another type in the loader."
            )
        if (
            len(options) != len(ref.options)
            or not options.keys() <= {TYPE, DEVICE}
            or options.get(DEVICE) not in {None, CPU}
        ):
            raise ModelRunError("A text encoder is loaded by a type and a device: use one release on both sides.")
        names = (ref.name.removeprefix(cls.prefix), *ref.files)
        files = tuple(cls.files.find_file(name) for name in names)
        return ModuleFiles(ref, files, sum(file.size_bytes for file in files))

    @classmethod
    def load(cls, found: ModuleFiles) -> Self:
        """See `RunnableModule`."""
        found.refuse_weight_dtype("text encoders")
        options = dict(found.ref.options)
        on_cpu = options.get(DEVICE) == CPU
        clip = load_clip(found.files, options[TYPE], on_cpu=on_cpu)
        # As `comfy.sd.CLIP` chooses it.
        device = _CPU if on_cpu else comfy.model_management.text_encoder_device()
        return cls(clip, comfy.model_management.text_encoder_dtype(device), found.files)

    @classmethod
    def prepare(
        cls, method: str, args: tuple[Any, ...], kwargs: Mapping[str, Any], load: LoadModule, *, autocast: bool
    ) -> MethodCall:
        """See `RunnableModule`."""
        cls.methods[method](args, kwargs)
        return _EncoderCall(method, args, kwargs)

    def patchers(self) -> list[Any]:
        """See `RunnableModule`."""
        return [self._patcher]

    def callee(self, patcher: Any) -> Any:
        """Return the composite."""
        return patcher.model

    def network(self) -> torch.nn.Module:
        """Return the composite; its blocks are those of its parts."""
        network: torch.nn.Module = self._patcher.model
        return network

    def compute_dtype(self) -> torch.dtype:
        """Return float32: ComfyUI's text encoders compute in it, whatever their weights are kept in."""
        return torch.float32

    def describe(self, name: str) -> dict[str, Any]:
        """Return what a client builds its CLIP from: `comfyui.client.text_encoder_skeleton`."""
        return {
            "files": [contents.tree() for contents in self._contents],
            "text_encoder": {"dtype": self._dtype, "weights": weights_digest(self._patcher.model.state_dict())},
        }


@dataclass(frozen=True)
class _EncoderCall(MethodCall):
    """A call of the composite or of a part, with the options of all parts."""

    def moved(self, device: torch.device) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """Return the arguments on the CPU: there ComfyUI prepares pictures among tokens, and moves the results."""
        args, kwargs = on_device((self.args, dict(self.kwargs)), _CPU)
        return args, kwargs

    def memory_required(self, patcher: Any) -> int:
        """See `MethodCall`. Later releases estimate it for some encoders."""
        estimate = getattr(patcher.model, "memory_estimation_function", None)
        if estimate is None or self.kwargs.get(PART) != "" or self.method == FILE_DATA:
            return 0
        return int(estimate(self.args[0], device=patcher.load_device))

    def bind(
        self, module: RunnableModule, patcher: Any, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Callable[[], Any]:
        """See `MethodCall`."""
        if self.method == FILE_DATA:
            return _file_data(module, args[0])
        model, parts = patcher.model, parts_of(patcher.model)
        part, options = kwargs.pop(PART), kwargs.pop(OPTIONS)
        if part != "" and part not in parts:
            raise ModelRunError("The text encoder has no such part: use the same ComfyUI release on both sides.")
        callee = parts[part] if part else model
        _check_tokens(args[0], [callee] if part else list(parts.values()) or [model])
        model.reset_clip_options()
        # Later releases compute there. A composite may keep it as well.
        model.set_clip_options({"execution_device": patcher.load_device})
        set_options(parts, options)
        return bound_method(callee, self.method, args, kwargs)


def _file_data(module: RunnableModule, name: bytes) -> Callable[[], torch.Tensor]:
    found = module.large.get(name) if isinstance(module, TextEncoder) else None
    if found is None:
        raise ModelRunError("The text encoder's file has no such tensor: queue the prompt again to load it.")
    return lambda: found


def _check_tokens(tokens: Any, parts: Sequence[torch.nn.Module]) -> None:
    """Refuse ids that no part has: on a GPU such a look-up would end the process, not the call.

    Raises:
        ModelRunError: an id is outside of every part's vocabulary, or tokens are no lists.
    """
    size = max((_vocabulary(part) for part in parts), default=0)
    for sections in tokens.values() if isinstance(tokens, dict) else [tokens]:
        if not isinstance(sections, list) or not all(isinstance(section, list) for section in sections):
            continue  # further data of a composite, which has no ids in it
        for entry in chain.from_iterable(sections):
            number = entry[0] if isinstance(entry, tuple | list) and entry else entry
            if type(number) is int and not -size <= number < size:
                raise ModelRunError(f"A token's number, {number}, is outside of the text encoder's vocabulary.")


def _vocabulary(part: Any) -> int:
    """Return the number of ids that a part has; a composite without parts has those of its largest table."""
    if hasattr(part, "transformer"):
        return int(part.transformer.get_input_embeddings().weight.shape[0])
    tables = (module for module in part.modules() if isinstance(module, torch.nn.Embedding))
    return max((int(table.weight.shape[0]) for table in tables), default=0)
