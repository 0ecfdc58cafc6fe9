"""An UPSCALE_MODEL whose network is at the worker: spandrel's own class, without weights."""

from __future__ import annotations

from functools import partial
from typing import Any, NoReturn

import comfy.model_management
import torch
from spandrel import MAIN_REGISTRY, ImageModelDescriptor, ModelTiling, SizeRequirements

from ...client.remote_model import RemoteModel
from ...errors import MessageError, OffloadError, RemoteWeightsError
from ..wire.picture_values import from_saved_values, pack_picture
from ..wire.upscale_calls import DTYPE, EIGHT_BIT, FLAGS, NETWORK, NUMBERS, TILE, UPSCALE, are_facts
from .remote_module import EmptyNetwork, ModuleCalls, RemoteModulePatcher

# What is read of the object at the worker, where it is as the file has it.
_READ_THERE = ("scale", "input_channels", "output_channels", "size_requirements", "_call_fn")


class RemoteUpscaleModel(ImageModelDescriptor):  # type: ignore[misc]  # not installed for the checks
    """An upscale model whose network is at the worker.

    Args:
        remote: the worker's model.
        eight_bit: whether whole pictures come as 8-bit values.

    Raises:
        MessageError: the worker's description is malformed.
    """

    def __init__(self, remote: RemoteModel, *, eight_bit: bool = False) -> None:
        facts: Any = remote.details.get("upscale_model") if isinstance(remote.details, dict) else None
        if not are_facts(facts) or facts["tiling"] not in ModelTiling.__members__:
            raise MessageError("the worker's description of the upscale model is not of the expected form")
        known = MAIN_REGISTRY.get(facts["architecture"])
        super().__init__(
            EmptyNetwork(remote),
            {},
            # None for one that this spandrel does not know: it is shown, and read by nothing here.
            architecture=None if known is None else known.architecture,
            purpose=facts["purpose"],
            tags=facts["tags"],
            size_requirements=SizeRequirements(facts["minimum"], facts["multiple_of"], facts["square"]),
            tiling=ModelTiling[facts["tiling"]],
            **{name: facts[name] for name in (*FLAGS, *NUMBERS)},
        )
        self.remote = remote
        self._eight_bit = eight_bit
        management: Any = comfy.model_management
        devices = management.get_torch_device(), management.unet_offload_device()
        self.patcher: Any = RemoteModulePatcher(self.model, *devices)
        self._calls = ModuleCalls(remote, self, "model", _READ_THERE)
        self._calls.stand_in({"forward": partial(self._of_tile, NETWORK)}, ImageModelDescriptor, RemoteUpscaleModel)

    def upscale(self, picture: torch.Tensor) -> torch.Tensor:
        """Return what ComfyUI's node makes of a picture [B, H, W, C], where that leaves it.

        Raises:
            UnsupportedPatchError: something of the model has been changed that the worker does not see.
            OffloadError: the picture has whole numbers.
        """
        if not picture.is_floating_point():
            raise OffloadError(f"A picture to upscale has {picture.dtype}: use numbers from 0 to 1.")
        management: Any = comfy.model_management
        own = getattr(management, "intermediate_dtype", None)  # of later releases, as the device of results
        dtype = torch.float32 if own is None else own()
        device = torch.device("cpu") if own is None else management.intermediate_device()
        eight_bit = self._eight_bit and dtype is torch.float32
        named = {DTYPE: dtype, EIGHT_BIT: eight_bit}
        result = self._calls.ask(UPSCALE, (pack_picture(picture),), named, has_pictures=True)
        expected = torch.uint8 if eight_bit else dtype
        if not isinstance(result, torch.Tensor) or result.dtype is not expected or result.dim() != picture.dim():
            raise MessageError("the worker's result of an upscale model is not of the expected form")
        return from_saved_values(result, device) if eight_bit else result.to(device)

    def __call__(self, image: torch.Tensor) -> torch.Tensor:
        """Return one tile [1, C, H, W] upscaled, as packs call it by themselves: a call to the worker for each."""
        return self._of_tile(TILE, image)

    @property
    def device(self) -> torch.device:
        """The device that a local network would be on."""
        device: torch.device = self.patcher.load_device
        return device

    @property
    def dtype(self) -> torch.dtype:
        """The dtype in which it computes at the worker."""
        return self.remote.dtype

    def __deepcopy__(self, memo: Any) -> NoReturn:
        """Refuse to copy the network: a node would change the copy.

        Raises:
            RemoteWeightsError: always.
        """
        raise RemoteWeightsError(self.remote.description.ref.name, "to copy the network")

    def _of_tile(self, method: str, image: torch.Tensor) -> torch.Tensor:
        result = self._calls.ask(method, (image,), {}, has_pictures=True)
        if not isinstance(result, torch.Tensor):
            raise MessageError("the worker's result of an upscale model is no tensor")
        return result.to(image.device)
