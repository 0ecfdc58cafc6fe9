"""CLIP vision models (CLIP, SigLIP, DINO): image encoders, whose `encode_image` runs as a whole."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Self

import torch

from ....backends.base import ModelRunError
from ....protocol.messages import FORWARD, ModelRef
from ...installation.clip_vision_files import CLIP_VISIONS, bytes_of_encoder, load_clip_vision
from ...wire.clip_vision_calls import CROP, ENCODE, FIELDS, ON_DEMAND, PREFIX, SIZES, WANTED, is_field
from ...wire.file_contents import FileContents
from ...wire.picture_values import unpack_picture
from .runnable_module import LoadModule, MethodCall, ModuleFiles, RunnableModule

# Of the network's own arguments, which packs call it with.
_NETWORK_ARGUMENTS = frozenset({"pixel_values", "intermediate_output"})


def _check_encoding(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
    wanted = kwargs.get(WANTED)
    fits = (
        len(args) == 1
        and isinstance(args[0], torch.Tensor)
        and args[0].dim() == 4
        and kwargs.keys() == {CROP, WANTED}
        and isinstance(kwargs[CROP], bool)
        and (wanted is None or (isinstance(wanted, list) and all(map(is_field, wanted))))
    )
    if not fits:
        raise ModelRunError("A call of CLIP vision is not of the expected form: use one release on both sides.")


def _check_network(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
    layer = kwargs.get("intermediate_output")
    fits = (
        not args
        and isinstance(kwargs.get("pixel_values"), torch.Tensor)
        and kwargs.keys() <= _NETWORK_ARGUMENTS
        and (layer is None or layer == "all" or type(layer) is int)
    )
    if not fits:
        raise ModelRunError(
            "A call of a CLIP vision network is not of the expected form: use one release on both sides."
        )


class ClipVision(RunnableModule):
    """A CLIP vision model in memory."""

    prefix = PREFIX
    files = CLIP_VISIONS
    methods = {ENCODE: _check_encoding, FORWARD: _check_network}  # noqa: RUF012

    def __init__(self, vision: Any) -> None:
        self.vision = vision
        self._patcher = vision.patcher

    @classmethod
    def find(cls, ref: ModelRef) -> ModuleFiles:
        """See `RunnableModule`."""
        file = cls.single_file(ref)
        return ModuleFiles(ref, (file,), bytes_of_encoder(file))

    @classmethod
    def load(cls, found: ModuleFiles) -> Self:
        """See `RunnableModule`."""
        found.refuse_weight_dtype("CLIP vision models")
        return cls(load_clip_vision(found.files[0]))

    @classmethod
    def prepare(
        cls, method: str, args: tuple[Any, ...], kwargs: Mapping[str, Any], load: LoadModule, *, autocast: bool
    ) -> MethodCall:
        """See `RunnableModule`."""
        cls.methods[method](args, kwargs)
        return _EncodeCall(method, args, kwargs) if method == ENCODE else MethodCall(method, args, kwargs)

    def patchers(self) -> list[Any]:
        """See `RunnableModule`."""
        return [self._patcher]

    def callee(self, patcher: Any) -> Any:
        """Return the network."""
        return patcher.model

    def network(self) -> torch.nn.Module:
        """Return the image encoder."""
        network: torch.nn.Module = self.vision.model
        return network

    def compute_dtype(self) -> torch.dtype:
        """Return float32: ComfyUI's image encoders compute in it, whatever their weights are kept in."""
        return torch.float32

    def describe(self, name: str) -> dict[str, Any]:
        """Return what a client builds its CLIP_VISION from: `comfyui.client.clip_vision_skeleton`."""
        # The network's own keys, by which ComfyUI recognises it as well as by those of any file.
        contents = FileContents.of(self.network().state_dict(), None)
        return {"files": [contents.tree()], "clip_vision": {"dtype": self.vision.dtype}}


@dataclass(frozen=True)
class _EncodeCall(MethodCall):
    """A call of ComfyUI's `encode_image`."""

    def moved(self, device: torch.device) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """Return the arguments on the CPU: ComfyUI moves the picture itself."""
        return (unpack_picture(self.args[0]),), dict(self.kwargs)

    def bind(
        self, module: RunnableModule, patcher: Any, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Callable[[], Any]:
        """See `MethodCall`."""
        if not isinstance(module, ClipVision):
            raise ModelRunError("This is no CLIP vision model.")
        vision, wanted = module.vision, kwargs[WANTED]
        vision.patcher = patcher

        def run() -> dict[str, Any]:
            found = dict(vars(vision.encode_image(args[0], crop=kwargs[CROP])))
            sizes = [tuple(size) for size in found.pop(SIZES, ())]
            names = found.keys() - ON_DEMAND if wanted is None else found.keys() & set(wanted)
            fields = {name: value for name, value in found.items() if name in names}
            strange = [name for name, value in fields.items() if not isinstance(value, torch.Tensor | None)]
            if strange:
                raise ModelRunError(f"This CLIP vision model gives {strange[0]!r:.80}, which cannot be sent.")
            return {FIELDS: fields, SIZES: sizes}

        return run
