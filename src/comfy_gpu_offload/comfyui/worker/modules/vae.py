"""VAEs: a ComfyUI `VAE`, whose four methods run as a whole, with batches and tiles by this machine's memory."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, ClassVar, Self

import torch

from ....backends.base import ModelRunError
from ....protocol.messages import ModelRef
from ...installation.model_files import FileKind
from ...installation.vae_files import VAES, LoadedVae, load_vae
from ...wire.file_contents import FileContents
from ...wire.picture_values import saved_values
from ...wire.vae_calls import (
    ATTRIBUTES,
    CONTEXT,
    DECODE,
    DECODE_TILED,
    DREW_NOISE,
    DTYPE,
    EIGHT_BIT,
    ENCODE,
    ENCODE_TILED,
    NETWORK_DECODE,
    NETWORK_ENCODE,
    NUMBERS,
    OUTPUT_DTYPE,
    PREFIX,
    TILES,
    VALUE,
)
from .runnable_module import LoadModule, MethodCall, ModuleFiles, RunnableModule

_DECODING = frozenset({DECODE, DECODE_TILED})
_ON_NETWORK = {NETWORK_DECODE: "decode", NETWORK_ENCODE: "encode"}
_OUTPUT_DTYPES = (torch.float32, torch.float16, torch.bfloat16)
# A larger buffer of the network is not sent with its description.
_SMALL_ELEMENTS = 4096
# Of a network's own methods, where packs give a time step, for one.
_MOST_ARGUMENTS = 3


def _check(args: tuple[Any, ...], kwargs: Mapping[str, Any], names: tuple[str, ...], most: int = 1) -> None:
    context = kwargs.get(CONTEXT)
    fits = (
        1 <= len(args) <= most
        and isinstance(args[0], torch.Tensor)
        and kwargs.keys() <= {CONTEXT, *names}
        and isinstance(context, dict)
        and context.keys() == {OUTPUT_DTYPE, ATTRIBUTES, EIGHT_BIT}
        and context[OUTPUT_DTYPE] in _OUTPUT_DTYPES
        and isinstance(context[EIGHT_BIT], bool)
        and isinstance(context[ATTRIBUTES], dict)
        and context[ATTRIBUTES].keys() <= NUMBERS
        and all(type(value) in {int, float} for value in context[ATTRIBUTES].values())
    )
    if not fits:
        raise ModelRunError("A call of a VAE is not of the expected form: use one release on both sides.")


def _check_whole(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
    _check(args, kwargs, ("vae_options",))
    options = kwargs.get("vae_options", {})
    if not isinstance(options, dict) or not all(isinstance(name, str) for name in options):
        raise ModelRunError("The options of a VAE are not of the expected form: use one release on both sides.")


def _check_tiled(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
    _check(args, kwargs, TILES)
    if not all(type(kwargs.get(name)) in {int, type(None)} for name in TILES):
        raise ModelRunError("The sizes of a VAE's tiles must be whole numbers: use one release on both sides.")


def _check_network(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
    named = {name: value for name, value in kwargs.items() if name == CONTEXT}
    _check(args, named, (), most=_MOST_ARGUMENTS)


class Vae(RunnableModule):
    """A VAE in memory."""

    prefix = PREFIX
    files: ClassVar[FileKind] = VAES
    methods = {  # noqa: RUF012
        DECODE: _check_whole,
        DECODE_TILED: _check_tiled,
        ENCODE: _check_whole,
        ENCODE_TILED: _check_tiled,
        NETWORK_DECODE: _check_network,
        NETWORK_ENCODE: _check_network,
    }

    def __init__(self, loaded: LoadedVae) -> None:
        self.vae = loaded.vae
        self._contents = FileContents.of(loaded.state_dict, loaded.metadata)
        self._has_metadata = loaded.metadata is not None
        self._patcher = loaded.vae.patcher
        self.process_output = loaded.vae.process_output
        # The client has done what these do. Where `process_input` computes, the network sees its result: a tensor
        # without gaps, in the order of the strides of what it was given.
        probe = torch.zeros(1)
        self.process_input = _same if loaded.vae.process_input(probe) is probe else _copied

    @classmethod
    def find(cls, ref: ModelRef) -> ModuleFiles:
        """See `RunnableModule`. One that is made of an encoder and a decoder has two files."""
        cls.single_file(ref)
        files = VAES.files_of(ref.name.removeprefix(cls.prefix))
        return ModuleFiles(ref, files, sum(file.size_bytes for file in files))

    @classmethod
    def load(cls, found: ModuleFiles) -> Self:
        """See `RunnableModule`."""
        found.refuse_weight_dtype("VAEs")
        return cls(load_vae(found.files))

    @classmethod
    def prepare(
        cls, method: str, args: tuple[Any, ...], kwargs: Mapping[str, Any], load: LoadModule, *, autocast: bool
    ) -> MethodCall:
        """See `RunnableModule`."""
        cls.methods[method](args, kwargs)
        return _VaeCall(method, args, kwargs)

    def patchers(self) -> list[Any]:
        """See `RunnableModule`."""
        return [self._patcher]

    def callee(self, patcher: Any) -> Any:
        """Return ComfyUI's VAE, whose weights are those of `patcher`."""
        self.vae.patcher = patcher
        return self.vae

    def network(self) -> torch.nn.Module:
        """Return the encoder and decoder."""
        network: torch.nn.Module = self.vae.first_stage_model
        return network

    def compute_dtype(self) -> torch.dtype:
        """See `RunnableModule`."""
        dtype: torch.dtype = self.vae.vae_dtype
        return dtype

    def describe(self, name: str) -> dict[str, Any]:
        """Return what a client builds its VAE from: `comfyui.client.vae_skeleton`."""
        buffers = dict(self.network().named_buffers())
        return {
            "files": [self._contents.tree()],
            "vae": {
                "has_metadata": self._has_metadata,
                "dtype": self.vae.vae_dtype,
                "keys": {key: tuple(weight.shape) for key, weight in self.network().state_dict().items()},
                "buffers": {
                    key: buffer.detach().cpu().clone()
                    for key, buffer in buffers.items()
                    if 0 < buffer.numel() <= _SMALL_ELEMENTS
                },
            },
        }


@dataclass(frozen=True)
class _VaeCall(MethodCall):
    """A call of a VAE or of its network."""

    def moved(self, device: torch.device) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """Return the arguments: the network's on the device, and others where ComfyUI cuts them into batches."""
        if self.method in _ON_NETWORK:
            return super().moved(device)
        return self.args, dict(self.kwargs)

    def bind(
        self, module: RunnableModule, patcher: Any, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Callable[[], Any]:
        """See `MethodCall`."""
        if not isinstance(module, Vae):
            raise ModelRunError("This is no VAE.")
        vae, context = module.callee(patcher), kwargs.pop(CONTEXT)
        owner, name = vae, self.method
        if name in _ON_NETWORK:
            owner, name = vae.first_stage_model, _ON_NETWORK[name]
        if not callable(getattr(owner, name, None)):
            raise ModelRunError(f"This VAE has no {name!r}: use the same ComfyUI release on both sides.")

        def run() -> dict[str, Any]:
            before = _random_states()
            with _as_at_client(module, context):
                value = getattr(owner, name)(*args, **kwargs)
                if not isinstance(value, torch.Tensor):
                    raise ModelRunError(f"This VAE's {name} returns no tensor, and cannot be used from afar.")
                dtype, value = value.dtype, self._result(module, value, context)
            drew = not all(map(torch.equal, before, _random_states()))
            return {VALUE: value, DTYPE: dtype, DREW_NOISE: drew}

        return run

    def _result(self, module: Vae, value: torch.Tensor, context: Mapping[str, Any]) -> torch.Tensor:
        if self.method in _ON_NETWORK:
            return value
        if self.method in _DECODING:
            value = value.movedim(-1, 1)  # as the network has made it
            if context[EIGHT_BIT]:
                return saved_values(module.process_output(value.float()))
        return _narrowed(value, module.compute_dtype())


@contextmanager
def _as_at_client(module: Vae, context: Mapping[str, Any]) -> Iterator[None]:
    """Let a call see what is in force at the client.

    Raises:
        ModelRunError: this VAE or this release of ComfyUI lacks something of that.
    """
    vae, network, dtype = module.vae, module.network(), context[OUTPUT_DTYPE]
    if hasattr(type(vae), "vae_output_dtype"):
        vae.vae_output_dtype = lambda: dtype
    elif dtype is not torch.float32:
        raise ModelRunError(
            "This worker's ComfyUI has no --fp16-intermediates, with which the client was started: update it, or "
            "start the client without."
        )
    missing = [name for name in context[ATTRIBUTES] if not hasattr(network, name)]
    if missing:
        raise ModelRunError(f"The VAE's network has no {missing[0]} here: use one ComfyUI release on both sides.")
    own = {name: getattr(network, name) for name in context[ATTRIBUTES]}
    vae.process_input, vae.process_output = module.process_input, _same
    for name, value in context[ATTRIBUTES].items():
        setattr(network, name, value)
    try:
        yield
    finally:
        for name, value in own.items():
            setattr(network, name, value)


def _same(image: torch.Tensor) -> torch.Tensor:
    return image


def _copied(image: torch.Tensor) -> torch.Tensor:
    return image * 1


def _narrowed(value: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """Return the same numbers in the dtype that the network computes in, where that holds all of them."""
    if value.dtype is not torch.float32 or dtype.itemsize >= value.dtype.itemsize:
        return value
    narrow = value.to(dtype)
    return narrow if torch.equal(narrow.to(value.dtype).view(torch.int32), value.view(torch.int32)) else value


def _random_states() -> list[torch.Tensor]:
    states = [torch.get_rng_state()]
    if torch.cuda.is_available():
        states.append(torch.cuda.get_rng_state())
    return states
