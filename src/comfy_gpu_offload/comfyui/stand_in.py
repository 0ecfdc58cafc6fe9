"""What stands where a ComfyUI model's network stood."""

from __future__ import annotations

import logging
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from functools import partial
from types import FunctionType
from typing import Any

import comfy.patcher_extension
import torch
from torch import nn

from ..client.remote_model import RemoteModel
from ..client.weight_patches import WeightPatches
from ..errors import ModelChangedError, Obstacle, UnsupportedPatchError
from ..server.backends.comfyui_methods import METHOD, METHODS
from . import generation, obstacles
from .control import travelling_control, warn_of_residuals
from .network_parts import NetworkParts
from .remade import without_remade
from .remote_weight import RemoteWeight
from .travel import travelling_options

logger = logging.getLogger(__name__)

_PREFIX = "diffusion_model."


class RemoteDiffusionModel(nn.Module):
    """A network whose forward pass is remote. May be called by many threads.

    What nodes put into it, or into the skeleton's parts, would be nowhere when the worker computes: it is refused.

    Attributes:
        weight_patches: are on the weights in every call until the next patcher is loaded, as with a network that is
            here; None for none.
        hooks: what hooks have put on them besides; None in a run without.
        shapes: of the model's weights by key, as they are in its file.
        told_of_control: whether this run has been warned of what ControlNets take that run here.

    Args:
        remote: where calls go.
        network: the skeleton's network, which answers for every attribute.
        dtype: what the worker keeps the weights in.
        state_dict: what stands for the weights of the worker's keys.
    """

    def __init__(
        self,
        remote: RemoteModel,
        network: nn.Module,
        dtype: torch.dtype,
        state_dict: Mapping[str, torch.Tensor],
    ) -> None:
        super().__init__()
        self.dtype = dtype
        # Set past nn.Module: as children these would be moved, counted and saved like weights.
        self.__dict__["remote"] = remote
        self.__dict__["weight_patches"] = None
        self.__dict__["hooks"] = None
        self.__dict__["told_of_control"] = False
        self.__dict__["skeleton"] = network
        self.__dict__["_meta"] = state_dict
        self.__dict__["_grown"] = {}
        self.__dict__["shapes"] = {_PREFIX + key: tuple(weight.shape) for key, weight in state_dict.items()}
        self.__dict__["_runs_wrappers"] = runs_wrappers(type(network))
        self.__dict__["_parts"] = parts = NetworkParts(network)
        for method, module in parts.foreign():
            logger.warning(
                "%s of ComfyUI is replaced here by a node pack (%s): at the worker it is ComfyUI's own.",
                method,
                module,
            )

    def forward(self, x: Any, timesteps: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
        """As the real network: `x` is a latent [B, C, …] or a list of them, in the compute dtype.

        The wrappers that the real network would run inside its own forward run here, so that a step which one
        of them skips (EasyCache) never reaches the worker. Where the real one runs none, none run.

        Raises:
            UnsupportedPatchError: the call carries code that cannot travel.
        """
        if not self.__dict__["_runs_wrappers"]:
            return self._call(x, timesteps, *args, **kwargs)
        options = kwargs.get("transformer_options", {})
        wrappers = comfy.patcher_extension.get_all_wrappers(
            comfy.patcher_extension.WrappersMP.DIFFUSION_MODEL, options
        )
        executor = comfy.patcher_extension.WrapperExecutor.new_class_executor(self._call, self, wrappers)
        return executor.execute(x, timesteps, *args, **kwargs)

    def put_in(self) -> Obstacle | None:
        """What a node has put into the skeleton's network; None for nothing.

        It stays there, and ComfyUI keeps the loader's output: a loader that runs again gets a network without it.
        """
        parts: NetworkParts = self.__dict__["_parts"]
        changed = parts.changed()
        if changed is None:
            return None
        generation.advance()
        return obstacles.of_network(changed)

    def _call(self, *args: Any, **kwargs: Any) -> Any:
        # Some nodes put their own into the network for the length of a call only.
        found = self.put_in()
        if found is not None:
            raise UnsupportedPatchError((found,))
        if "transformer_options" in kwargs:
            kwargs = {**kwargs, "transformer_options": travelling_options(kwargs["transformer_options"])}
        remote: RemoteModel = self.__dict__["remote"]
        if kwargs.get("control") is not None:
            kwargs = {**kwargs, "control": self._control(remote, args, kwargs)}
        patches: WeightPatches | None = self.__dict__["weight_patches"]
        try:
            return remote.patched(patches, args, without_remade(kwargs), self.__dict__["hooks"])
        except ModelChangedError:
            generation.advance()
            raise

    def _control(self, remote: RemoteModel, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        data, size_bytes = travelling_control(kwargs["control"], remote.dtype, args, kwargs)
        if size_bytes and not self.__dict__["told_of_control"]:
            self.__dict__["told_of_control"] = True
            warn_of_residuals(size_bytes)
        return data

    def state_dict(self, *args: Any, **kwargs: Any) -> Any:
        """The worker's keys with their shapes and dtypes, on the meta device: what LoRA key maps are made of."""
        destination = kwargs.get("destination", args[0] if args else None)
        prefix = kwargs.get("prefix", args[1] if len(args) > 1 else "")
        into: Any = OrderedDict() if destination is None else destination
        weights = {**self.__dict__["_meta"], **self.__dict__["_grown"]}
        into.update({prefix + key: tensor for key, tensor in weights.items()})
        return into

    def in_file(self, key: str) -> torch.Tensor:
        """Return what stands for the model's weight of that key, of the shape that it has in its file."""
        found: torch.Tensor = self.__dict__["_meta"][key.removeprefix(_PREFIX)]
        return found

    def grow(self, shapes: Mapping[str, tuple[int, ...]]) -> None:
        """Give weights the shapes that patches make them, and all others their own.

        ComfyUI reads from a network's first layer what it is to be called with: a model that a LoRA has given more
        channels is called with more.

        Args:
            shapes: by key, of those that are larger.
        """
        grown: dict[str, torch.Tensor] = self.__dict__["_grown"]
        for key in [*grown, *(key.removeprefix(_PREFIX) for key in shapes)]:
            shape = shapes.get(_PREFIX + key, self.shapes[_PREFIX + key])
            _reshape(self.__dict__["skeleton"], key, shape)
        self.__dict__["_grown"] = {key.removeprefix(_PREFIX): self._as_large(key, shapes[key]) for key in shapes}

    def _as_large(self, key: str, shape: tuple[int, ...]) -> RemoteWeight:
        weight = torch.empty(shape, dtype=self.in_file(key).dtype, device="meta")
        return RemoteWeight.of(self.__dict__["remote"], key, weight)

    def load_state_dict(self, *_: Any, **__: Any) -> Any:
        """Refused: the weights are at the worker.

        Raises:
            UnsupportedPatchError: always.
        """
        raise UnsupportedPatchError((obstacles.of_network("weights"),))

    def named_modules(
        self, memo: set[nn.Module] | None = None, prefix: str = "", remove_duplicate: bool = True
    ) -> Iterator[tuple[str, nn.Module]]:
        """This one, and the skeleton's parts: what a node changes of them is seen then."""
        yield from super().named_modules(memo, prefix, remove_duplicate)
        skeleton: nn.Module = self.__dict__["skeleton"]
        for name, child in skeleton.named_children():
            yield from child.named_modules(memo, f"{prefix}.{name}".removeprefix("."), remove_duplicate)

    def __setattr__(self, name: str, value: Any) -> None:
        """Sets what is no part of the network.

        Raises:
            UnsupportedPatchError: the network has something of that name, which is at the worker.
        """
        skeleton = self.__dict__.get("skeleton")
        if skeleton is not None and name != "training" and hasattr(skeleton, name):
            raise UnsupportedPatchError((obstacles.of_network(name),))
        super().__setattr__(name, value)

    def __delattr__(self, name: str) -> None:
        # unittest.mock takes back what could not be set, and its error would hide the refusal.
        if name in vars(self) or name in self._modules:
            super().__delattr__(name)

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            found = getattr(self.__dict__["skeleton"], name)
            return partial(self._call, **{METHOD: name}) if name in METHODS else found


def runs_wrappers(network: type[nn.Module]) -> bool:
    """Whether a network's own code runs `DIFFUSION_MODEL` wrappers: SD3's, PixArt's and some others do not."""
    methods = (value for kind in network.__mro__ for value in vars(kind).values())
    return any(
        "DIFFUSION_MODEL" in method.__code__.co_names for method in methods if isinstance(method, FunctionType)
    )


def _reshape(network: nn.Module, key: str, shape: tuple[int, ...]) -> None:
    """Give a parameter without data another shape; it stays the same object."""
    owner, _, name = key.rpartition(".")
    try:
        weight = getattr(network.get_submodule(owner), name)
    except AttributeError:  # of a release of ComfyUI that names it otherwise
        return
    if isinstance(weight, torch.Tensor) and weight.is_meta and tuple(weight.shape) != shape:
        # A tensor made in inference mode takes the data of such a tensor alone.
        with torch.inference_mode(weight.is_inference()), torch._C.DisableTorchFunctionSubclass():
            weight.data = torch.empty(shape, dtype=weight.dtype, device="meta")
