"""Upscale models: networks of spandrel, with which ComfyUI's own node runs as a whole, tiles and all."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Self

import comfy.model_management
import comfy.model_patcher
import torch

from ....backends.base import ModelRunError
from ...installation.upscale_model_files import UPSCALE_MODELS, load_upscale_model, upscale
from ...wire.picture_values import saved_values, unpack_picture
from ...wire.upscale_calls import DTYPE, EIGHT_BIT, FLAGS, NETWORK, NUMBERS, PREFIX, TILE, UPSCALE
from .runnable_module import LoadModule, MethodCall, ModuleFiles, RunnableModule

_DTYPES = (torch.float32, torch.float16, torch.bfloat16)


def _is_picture(args: tuple[Any, ...]) -> bool:
    return len(args) == 1 and isinstance(args[0], torch.Tensor) and args[0].dim() == 4


def _check_whole(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
    fits = (
        _is_picture(args)
        and kwargs.keys() == {DTYPE, EIGHT_BIT}
        and kwargs[DTYPE] in _DTYPES
        and isinstance(kwargs[EIGHT_BIT], bool)
    )
    if not fits:
        raise ModelRunError(
            "A call of an upscale model is not of the expected form: use one release on both sides."
        )


def _check_tile(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
    if not _is_picture(args) or kwargs:
        raise ModelRunError("An upscale model takes one picture: use the same release on both sides.")


class UpscaleModel(RunnableModule):
    """An upscale model in memory.

    Args:
        descriptor: spandrel's.
    """

    prefix = PREFIX
    files = UPSCALE_MODELS
    methods = {UPSCALE: _check_whole, TILE: _check_tile, NETWORK: _check_tile}  # noqa: RUF012

    def __init__(self, descriptor: Any) -> None:
        self.descriptor = descriptor
        # Earlier releases of ComfyUI give it none, and move the network for each call.
        self._has_patcher = hasattr(descriptor, "patcher")
        if self._has_patcher:
            self._patcher = descriptor.patcher
        else:
            management: Any = comfy.model_management
            devices = management.get_torch_device(), management.unet_offload_device()
            self._patcher = comfy.model_patcher.ModelPatcher(descriptor.model, *devices)

    @classmethod
    def load(cls, found: ModuleFiles) -> Self:
        """See `RunnableModule`."""
        found.refuse_weight_dtype("upscale models")
        return cls(load_upscale_model(found.files[0]))

    @classmethod
    def prepare(
        cls, method: str, args: tuple[Any, ...], kwargs: Mapping[str, Any], load: LoadModule, *, autocast: bool
    ) -> MethodCall:
        """See `RunnableModule`."""
        cls.methods[method](args, kwargs)
        return _UpscaleCall(method, args, kwargs)

    def patchers(self) -> list[Any]:
        """See `RunnableModule`."""
        return [self._patcher]

    def callee(self, patcher: Any) -> Any:
        """Return spandrel's descriptor."""
        if self._has_patcher:
            self.descriptor.patcher = patcher
        return self.descriptor

    def network(self) -> torch.nn.Module:
        """See `RunnableModule`."""
        network: torch.nn.Module = self.descriptor.model
        return network

    def compute_dtype(self) -> torch.dtype:
        """See `RunnableModule`."""
        dtype: torch.dtype = self.descriptor.dtype
        return dtype

    def describe(self, name: str) -> dict[str, Any]:
        """Return spandrel's facts of it: `comfyui.client.remote_upscale_model`."""
        model, sizes = self.descriptor, self.descriptor.size_requirements
        return {
            "upscale_model": {
                "architecture": str(model.architecture.id),
                "purpose": str(model.purpose),
                "tiling": model.tiling.name,
                "tags": list(map(str, model.tags)),
                "minimum": sizes.minimum,
                "multiple_of": sizes.multiple_of,
                "square": bool(sizes.square),
                **{name: bool(getattr(model, name)) for name in FLAGS},
                **{name: int(getattr(model, name)) for name in NUMBERS},
            }
        }


@dataclass(frozen=True)
class _UpscaleCall(MethodCall):
    """A call of ComfyUI's node, or of a tile."""

    def moved(self, device: torch.device) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """Return the arguments: a whole picture on the CPU, as ComfyUI has it, and a tile on the device."""
        if self.method == UPSCALE:
            return (unpack_picture(self.args[0]),), dict(self.kwargs)
        return super().moved(device)

    def bind(
        self, module: RunnableModule, patcher: Any, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Callable[[], Any]:
        """See `MethodCall`."""
        model = module.callee(patcher)
        if self.method != UPSCALE:
            function = model.model if self.method == NETWORK else model
            return lambda: function(args[0])
        dtype, eight_bit = kwargs[DTYPE], kwargs[EIGHT_BIT]

        def run() -> torch.Tensor:
            picture: torch.Tensor = upscale(model, args[0])
            if eight_bit:
                return saved_values(picture)
            if picture.dtype is not dtype and picture.dtype is not torch.float32:
                raise ModelRunError(
                    f"This worker's ComfyUI makes pictures of {picture.dtype}, and the client wants {dtype}: start "
                    "both with or both without --fp16-intermediates."
                )
            return picture.to(dtype)

        return run
