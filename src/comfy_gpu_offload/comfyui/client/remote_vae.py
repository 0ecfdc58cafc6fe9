"""A VAE whose network is at the worker: ComfyUI's own class, whose methods run there as a whole."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from types import MappingProxyType
from typing import Any, Final, NoReturn

import comfy.sd
import comfy.utils
import torch
from torch import nn

from ...client.remote_model import RemoteModel
from ...errors import MessageError, ModelChangedError, Obstacle, RemoteWeightsError, UnsupportedPatchError
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
from . import loader_epoch, node_lines, refusals
from .changes import loaded_code, swallowed_refusals, tainted_models
from .changes.network_parts import NetworkParts
from .patches.patch_uploads import report_skipped, upload_bar, weight_obstacles
from .patches.weight_hooks import hook_obstacles
from .remote_state import RemoteState, keep_state, state_of
from .remote_weight import RemoteWeight, stand_in_for_weights
from .vae_skeleton import VaeFacts, make_vae
from .weightless_patcher import WeightlessPatcher

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
_ABSENT: Final = object()


class RemoteVaePatcher(WeightlessPatcher):
    """The patcher of a VAE whose weights are at the worker."""

    _reported: Any = None

    def refuse_unsupported(self) -> None:
        """Refuse patches that cannot be sent to the worker.

        Raises:
            UnsupportedPatchError: there are such patches; it lists all of them.
        """
        if found := tuple(self._obstacles()):
            raise UnsupportedPatchError(found)

    def _obstacles(self) -> Iterator[Obstacle]:
        yield from weight_obstacles(self)
        yield from hook_obstacles(self)
        if getattr(self, "weight_wrapper_patches", None):
            yield refusals.of_weight_wrappers(self.weight_wrapper_patches)
        for name, injections in getattr(self, "injections", {}).items():
            yield refusals.of_injection(name, injections)
        for name, value in self.object_patches.items():
            yield refusals.of_object(name, value)

    def ready(self) -> None:
        """Have the next call name this patcher's weight patches.

        Raises:
            UnsupportedPatchError: there are patches that cannot be sent to the worker.
        """
        self.refuse_unsupported()
        data = self.patch_weights()
        if self._reported != self.patches_uuid:
            report_skipped(data, self)
            self._reported = self.patches_uuid


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
        self._as_loaded = {name: getattr(self, name, _ABSENT) for name in _READ_THERE}
        # Those that only a node has put there are not read by the network's code.
        self._numbers = tuple(name for name in sorted(NUMBERS) if _is_number(getattr(self._network, name, None)))
        self._warned_of_noise = False
        self._dtype: torch.dtype = self.vae_dtype
        self._process_output = self.process_output
        self._eight_bit = eight_bit and _makes_pictures(self)
        _stand_in(remote, self._network, self._of_network)
        self._use_patcher(self.patcher)

    def _use_patcher(self, made: Any) -> None:
        self.patcher: Any = RemoteVaePatcher(self._network, made.load_device, made.offload_device)

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
            return value.to(device=self.output_device, dtype=torch.float32).div_(255).movedim(1, -1)
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
        self._refuse_changes()
        self.patcher.ready()
        state = state_of(self._network)
        numbers = {name: getattr(self._network, name) for name in self._numbers}
        context = {OUTPUT_DTYPE: self._output_dtype, ATTRIBUTES: numbers, EIGHT_BIT: eight_bit}
        # A run that begins with the latent is at the same worker, as a rule.
        keeps = method in {ENCODE, ENCODE_TILED}
        try:
            result = self.remote.patched(
                state.weight_patches,
                (tensor, *args),
                {**named, CONTEXT: context},
                method=method,
                device=torch.device("cpu"),
                on_received=upload_bar(),
                has_pictures=True,
                keep_result="data" if keeps else None,
            )
        except ModelChangedError:
            loader_epoch.advance()
            raise
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

    def _refuse_changes(self) -> None:
        """Refuse a call if something has been changed since the VAE was loaded that only the worker computes with.

        Raises:
            UnsupportedPatchError: it has.
            RemoteWeightError: a node has caught the refusal to change a weight, and gone on.
        """
        swallowed_refusals.report(self.remote)
        found = self._change()
        if found is not None:
            raise UnsupportedPatchError((found,))

    def _change(self) -> Obstacle | None:
        state = state_of(self._network)
        found = tainted_models.reason(self.remote)
        if found is not None:
            return found
        if self.first_stage_model is not self._network or self.patcher.model is not self._network:
            return self._unusable(refusals.of_network("first_stage_model", self.first_stage_model))
        for name, was in self._as_loaded.items():
            now = getattr(self, name, _ABSENT)
            if now is not was and not _equal(now, was):
                return self._unusable(refusals.of_network(name, now))
        changed = state.parts.changed_between()
        if changed is not None:
            return self._unusable(refusals.of_network(changed.part, changed.value))
        replaced = state.code.replaced()
        if replaced is None:
            return None
        loader_epoch.advance()
        return refusals.of_code(replaced.part, replaced.value)

    def _unusable(self, obstacle: Obstacle) -> Obstacle:
        return tainted_models.mark_unusable(self.remote, obstacle)


def _stand_in(remote: RemoteModel, network: nn.Module, call: Callable[..., torch.Tensor]) -> None:
    """Make `network` the stand-in for the worker's: its weights, its two methods, and the watch over its parts."""
    weights = {
        key: RemoteWeight.of(remote, key, weight) for key, weight in network.state_dict().items() if weight.is_meta
    }
    stand_in_for_weights(remote, network, "")
    for name, method in (("decode", NETWORK_DECODE), ("encode", NETWORK_ENCODE)):
        if callable(getattr(network, name, None)):
            setattr(network, name, _NetworkMethod(call, method))
    state = RemoteState(
        remote=remote,
        skeleton=network,
        file_weights=weights,
        file_shapes={key: tuple(weight.shape) for key, weight in weights.items()},
        runs_wrappers=False,
        parts=NetworkParts(network, {network: NUMBERS}),
        code=loaded_code.of_network(network, comfy.sd.VAE, RemoteVae, RemoteModel, prefixes=_CODE),
    )
    keep_state(network, state)


class _NetworkMethod:
    """A method of the network that is called at the worker."""

    def __init__(self, call: Callable[..., torch.Tensor], method: str) -> None:
        self._call = call
        self._method = method

    def __call__(self, *args: Any, **kwargs: Any) -> torch.Tensor:
        return self._call(self._method, *args, **kwargs)


def _tiles(args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, int]:
    """Return the sizes of tiles by name, as whole numbers."""
    given = {**dict(zip(TILES, args, strict=False)), **kwargs}
    return {name: int(value) for name, value in given.items() if value is not None}


def _makes_pictures(vae: Any) -> bool:
    """Return whether what a VAE decodes is a picture or a video, and neither sound nor a shape."""
    return vae.output_channels in {3, 4} and vae.latent_dim in {2, 3} and vae.extra_1d_channel is None


def _is_number(value: Any) -> bool:
    return type(value) in {int, float}


def _equal(one: Any, other: Any) -> bool:
    try:
        return type(one) is type(other) and bool(one == other)
    except Exception:  # an object's own comparison may raise
        return False
