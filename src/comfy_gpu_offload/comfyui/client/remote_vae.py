"""A VAE whose network is at the worker: ComfyUI's own class, whose methods run there as a whole."""

from __future__ import annotations

import logging
from functools import partial
from types import MappingProxyType
from typing import Any, NoReturn

import comfy.sd
import comfy.utils
import torch

from ...client.remote_model import RemoteModel
from ...errors import MessageError, RemoteWeightsError, UnsupportedPatchError
from ..wire.picture_values import from_saved_values
from ..wire.vae_calls import (
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
    TILES,
    VALUE,
)
from . import node_lines, refusals
from .remote_module import ModuleCalls, RemoteModulePatcher
from .vae_skeleton import VaeFacts, make_vae

logger = logging.getLogger(__name__)

# Modules that networks of VAEs are made of, besides those of all kinds.
_CODE = ("comfy.taesd.", "comfy.pixel_space_convert")
# What ComfyUI's methods read of a VAE as they run, which is at the worker.
_READ_THERE = (
    "upscale_ratio",
    "downscale_ratio",
    "upscale_index_formula",
    "downscale_index_formula",
    "latent_channels",
    "latent_dim",
    "output_channels",
    "not_video",
    "extra_1d_channel",
    "handles_tiling",
    "format_encoded",
    "vae_dtype",
)


class RemoteVae(comfy.sd.VAE):  # type: ignore[misc]  # ComfyUI is untyped
    """A VAE whose network is at the worker.

    The crop, `process_input` and `process_output` run here. Everything else of the four methods runs at the worker.

    Args:
        remote: the worker's VAE.
        eight_bit: whether pictures come as 8-bit values.

    Raises:
        OffloadError: this ComfyUI cannot build it.
        MessageError: the worker's description is malformed.
    """

    def __init__(self, remote: RemoteModel, *, eight_bit: bool = False) -> None:
        make_vae(self, VaeFacts.of(remote))
        self.remote = remote
        self.size = 0
        self._network = self.first_stage_model
        self._calls = ModuleCalls(remote, self, "first_stage_model", _READ_THERE)
        # Those that only a node has put there are not read by the network's code.
        self._numbers = tuple(name for name in sorted(NUMBERS) if _is_number(getattr(self._network, name, None)))
        self._warned_of_noise = False
        self._dtype: torch.dtype = self.vae_dtype
        self._process_output = self.process_output
        self._eight_bit = eight_bit and _makes_pictures(self)
        own = {"decode": NETWORK_DECODE, "encode": NETWORK_ENCODE}
        methods = {name: partial(self._of_network, method) for name, method in own.items()}
        self._calls.stand_in(methods, comfy.sd.VAE, RemoteVae, free=NUMBERS, prefixes=_CODE)
        self._use_patcher(self.patcher)

    def _use_patcher(self, made: Any) -> None:
        self.patcher: Any = RemoteModulePatcher(self._network, made.load_device, made.offload_device)

    def model_size(self) -> int:
        """Return 0 bytes: no weight is here."""
        return 0

    def decode(self, samples_in: torch.Tensor, vae_options: Any = MappingProxyType({})) -> torch.Tensor:
        """Return pictures [B, H, W, C], videos [B, T, H, W, C] or sound [B, N, C] from latents [B, C, …]."""
        options = {"vae_options": dict(vae_options)} if vae_options else {}
        return self._decoded(DECODE, samples_in, options)

    def decode_tiled(self, samples: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
        """Return the same as `decode`, computed in tiles of the sizes given."""
        return self._decoded(DECODE_TILED, samples, _tiles(args, kwargs))

    def encode(self, pixel_samples: torch.Tensor) -> torch.Tensor:
        """Return latents [B, C, …] of pictures [B, H, W, C], videos or sound."""
        return self._encoded(ENCODE, pixel_samples, {})

    def encode_tiled(self, pixel_samples: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
        """Return the same as `encode`, computed in tiles of the sizes given."""
        return self._encoded(ENCODE_TILED, pixel_samples, _tiles(args, kwargs))

    def get_sd(self) -> NoReturn:
        """Refuse: the weights are at the worker.

        Raises:
            RemoteWeightsError: always.
        """
        raise RemoteWeightsError(self.remote.description.ref.name, "to save them")

    def __deepcopy__(self, memo: Any) -> NoReturn:
        """Refuse to copy the network: a node would change the copy.

        Raises:
            RemoteWeightsError: always.
        """
        raise RemoteWeightsError(self.remote.description.ref.name, "to copy the network")

    def _decoded(self, method: str, samples: torch.Tensor, named: dict[str, Any]) -> torch.Tensor:
        # What a pack has put in place of `process_output` wants the network's own values.
        own = self.process_output is self._process_output and self._output_dtype is torch.float32
        eight_bit = self._eight_bit and own
        sent = samples.to(self._dtype)
        # The end of a run at the same worker is known there.
        self.remote.note_cast(samples, sent)
        value = self._called(method, sent, named, eight_bit=eight_bit)
        if eight_bit:
            return from_saved_values(value, self.output_device).movedim(1, -1)
        made = self.process_output(value)
        # Later releases have it change what it is given; of `decode` they ignore what it returns.
        in_place = method == DECODE and hasattr(comfy.sd.VAE, "vae_output_dtype")
        return (value if in_place else made).movedim(1, -1)

    def _encoded(self, method: str, pixels: torch.Tensor, named: dict[str, Any]) -> torch.Tensor:
        pixels = self.vae_encode_crop_pixels(pixels).movedim(-1, 1)
        pixels = self.process_input(pixels).to(self._dtype)
        return self._called(method, pixels.movedim(1, -1), named)

    @property
    def _output_dtype(self) -> torch.dtype:
        own = getattr(self, "vae_output_dtype", None)
        dtype: torch.dtype = torch.float32 if own is None else own()
        return dtype

    def _of_network(self, method: str, tensor: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
        """Call a method of the network itself, as packs do; the result is where `tensor` is."""
        if kwargs:
            raise UnsupportedPatchError((refusals.of_network_arguments(sorted(kwargs)),))
        return self._called(method, tensor, {}, *args).to(tensor.device)

    def _called(
        self, method: str, tensor: torch.Tensor, named: dict[str, Any], *args: Any, eight_bit: bool = False
    ) -> torch.Tensor:
        """Return the result of a method at the worker, where ComfyUI keeps results.

        Raises:
            UnsupportedPatchError: something of the VAE has been changed that the worker does not see.
        """
        numbers = {name: getattr(self._network, name) for name in self._numbers}
        context = {OUTPUT_DTYPE: self._output_dtype, ATTRIBUTES: numbers, EIGHT_BIT: eight_bit}
        # A run that begins with the latent is at the same worker, as a rule.
        keeps = method in {ENCODE, ENCODE_TILED}
        result = self._calls.ask(
            method,
            (tensor, *args),
            {**named, CONTEXT: context},
            has_pictures=True,
            keep_result="data" if keeps else None,
        )
        value, dtype = (result.get(VALUE), result.get(DTYPE)) if isinstance(result, dict) else (None, None)
        if not isinstance(value, torch.Tensor) or not isinstance(dtype, torch.dtype) or not dtype.is_floating_point:
            raise MessageError("the worker's result of a VAE is not of the expected form")
        if result.get(DREW_NOISE):
            self._warn_of_noise()
        if eight_bit:
            return value
        made = value.to(device=self.output_device, dtype=dtype)
        if keeps:
            self.remote.note_cast(value, made)
        return made

    def _warn_of_noise(self) -> None:
        if not self._warned_of_noise:
            self._warned_of_noise = True
            text = "This VAE draws random numbers without a seed: each result differs, as it does locally."
            logger.warning("%s", text)
            node_lines.show(text)


def _tiles(args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, int]:
    """Return the sizes of tiles by name, as whole numbers."""
    given = {**dict(zip(TILES, args, strict=False)), **kwargs}
    return {name: int(value) for name, value in given.items() if value is not None}


def _makes_pictures(vae: Any) -> bool:
    """Return whether what a VAE decodes is a picture or a video, and neither sound nor a shape."""
    return vae.output_channels in {3, 4} and vae.latent_dim in {2, 3} and vae.extra_1d_channel is None


def _is_number(value: Any) -> bool:
    return type(value) in {int, float}
