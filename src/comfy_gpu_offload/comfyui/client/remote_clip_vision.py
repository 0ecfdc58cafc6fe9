"""A CLIP_VISION whose network is at the worker: ComfyUI's own class, whose `encode_image` runs there as a whole."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NoReturn

import comfy.clip_vision
import comfy.model_management
import torch

from ...client.remote_model import RemoteModel
from ...errors import MessageError, OffloadError, RemoteWeightsError, UnsupportedPatchError
from ...protocol.messages import FORWARD
from ..wire.clip_vision_calls import ALL_HIDDEN, CROP, ENCODE, FIELDS, SIZES, WANTED, is_field
from ..wire.picture_values import pack_picture
from . import refusals
from .changes.loaded_code import IMAGE_ENCODERS
from .clip_vision_skeleton import ClipVisionFacts, build_clip_vision
from .remote_module import ModuleCalls, RemoteModulePatcher

# What ComfyUI's method reads of the object as it runs, which is at the worker.
_READ_THERE = (
    "image_size",
    "image_mean",
    "image_std",
    "model_type",
    "config",
    "return_all_hidden_states",
    "dtype",
    "load_device",
)


class RemoteClipVision(comfy.clip_vision.ClipVisionModel):  # type: ignore[misc]  # ComfyUI is untyped
    """A CLIP vision model whose network is at the worker.

    Raises:
        OffloadError: this ComfyUI cannot build it.
        MessageError: the worker's description is malformed.
    """

    def __init__(self, remote: RemoteModel) -> None:
        made = build_clip_vision(ClipVisionFacts.of(remote))
        self.__dict__.update(vars(made))
        self.remote = remote
        self.patcher: Any = RemoteModulePatcher(self.model, made.patcher.load_device, made.patcher.offload_device)
        self._calls = ModuleCalls(remote, self, "model", _READ_THERE)
        self._calls.stand_in(
            {"forward": self._of_network},
            comfy.clip_vision,
            comfy.clip_vision.ClipVisionModel,
            RemoteClipVision,
            prefixes=IMAGE_ENCODERS,
        )

    def encode_image(self, image: torch.Tensor, crop: bool = True) -> comfy.clip_vision.Output:
        """Return ComfyUI's output for pictures [B, H, W, C] of numbers from 0 to 1.

        `all_hidden_states`, where there are some, are computed and fetched when they are read.

        Raises:
            UnsupportedPatchError: something of the model has been changed that the worker does not see.
            OffloadError: the picture has whole numbers.
        """
        if not image.is_floating_point():
            raise OffloadError(f"A picture for CLIP vision has {image.dtype}: use numbers from 0 to 1.")
        packed = pack_picture(image)

        def fetch() -> Any:
            return self._encoded(packed, crop, [ALL_HIDDEN])[0][ALL_HIDDEN]

        fields, sizes = self._encoded(packed, crop, None)
        output = _Output(fetch) if self.return_all_hidden_states else comfy.clip_vision.Output()
        output.__dict__.update(fields)
        if sizes:
            output[SIZES] = sizes
        return output

    def load_sd(self, sd: Mapping[str, torch.Tensor]) -> NoReturn:
        """Refuse: the weights are at the worker.

        Raises:
            RemoteWeightsError: always.
        """
        raise RemoteWeightsError(self.remote.description.ref.name, "to put others in their place")

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

    def _encoded(
        self, packed: torch.Tensor, crop: bool, wanted: list[str] | None
    ) -> tuple[dict[str, Any], list[torch.Size]]:
        """Return fields of ComfyUI's output on the devices where ComfyUI leaves them, and sizes of pictures.

        Raises:
            MessageError: the worker's result is malformed.
        """
        result = self._calls.ask(ENCODE, (packed,), {CROP: bool(crop), WANTED: wanted}, has_pictures=True)
        fields, sizes = (result.get(FIELDS), result.get(SIZES)) if isinstance(result, dict) else (None, None)
        if not isinstance(fields, dict) or not isinstance(sizes, list) or not fields.keys() >= set(wanted or ()):
            raise MessageError("the worker's result of a CLIP vision model is not of the expected form")
        if not all(is_field(name) and isinstance(value, torch.Tensor | None) for name, value in fields.items()):
            raise MessageError("the worker's result of a CLIP vision model has invalid fields")
        if not all(isinstance(size, tuple) and all(type(each) is int for each in size) for size in sizes):
            raise MessageError("the worker's result of a CLIP vision model has invalid sizes")
        return {name: self._placed(name, value) for name, value in fields.items()}, list(map(torch.Size, sizes))

    def _placed(self, name: str, value: torch.Tensor | None) -> torch.Tensor | None:
        if value is None:
            return None
        # ComfyUI moves all others.
        stays = name == "mm_projected"
        return value.to(self.load_device if stays else comfy.model_management.intermediate_device())

    def _of_network(self, *args: Any, **kwargs: Any) -> Any:
        """Call the network itself, as packs do with pictures that they have prepared."""
        named = {**dict(zip(("pixel_values",), args, strict=False)), **kwargs}
        further = sorted(named.keys() - {"pixel_values", "intermediate_output"})
        pixels = named.get("pixel_values")
        if len(args) > 1 or further or not isinstance(pixels, torch.Tensor):
            raise UnsupportedPatchError((refusals.of_network_arguments(further or ["without pixel_values"]),))
        result = self._calls.ask(FORWARD, (), named)
        if not isinstance(result, tuple) or not all(isinstance(each, torch.Tensor | None) for each in result):
            raise MessageError("the worker's result of an image encoder is not of the expected form")
        return tuple(None if each is None else each.to(pixels.device) for each in result)


class _Output(comfy.clip_vision.Output):  # type: ignore[misc]  # ComfyUI is untyped
    """ComfyUI's output, whose `all_hidden_states` are fetched when they are read: 90 MB a picture with SigLIP."""

    # Outside of the fields that nodes and samplers see.
    __slots__ = ("_fetch",)

    def __init__(self, fetch: Callable[[], Any]) -> None:
        self._fetch = fetch

    def __getattr__(self, name: str) -> Any:
        if name != ALL_HIDDEN:
            raise AttributeError(f"{type(self).__name__} has no {name!r}")
        value = self.__dict__[ALL_HIDDEN] = self._fetch()
        return value

    def __reduce_ex__(self, _: Any) -> Any:
        """Have a copy of it be ComfyUI's own, with all fields."""
        fields = {**vars(self), ALL_HIDDEN: self.all_hidden_states}
        return comfy.clip_vision.Output, (), fields
