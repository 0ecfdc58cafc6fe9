"""What stands where a ComfyUI model's network stood."""

from __future__ import annotations

import logging
from collections import OrderedDict
from collections.abc import Mapping
from functools import partial
from types import FunctionType
from typing import Any, NoReturn

import comfy.patcher_extension
import torch
from torch import nn

from ...client.remote_model import RemoteModel
from ...client.weight_patches import WeightPatches
from ...errors import ModelChangedError, Obstacle, RemoteWeightsError, UnsupportedPatchError
from ..wire.network_methods import METHOD, METHODS
from . import loader_epoch, refusals
from .changes import code_origin, loaded_code, tainted_models
from .changes.network_parts import Change, NetworkParts
from .control_payload import travelling_control, warn_of_residuals
from .recomputable_inputs import without_remade
from .remote_weight import RemoteWeight
from .torch_transforms import refuse_transforms
from .travel_policy import travelling_options

logger = logging.getLogger(__name__)

_PREFIX = "diffusion_model."


class RemoteDiffusionModel(nn.Module):
    """A network whose forward pass is remote. May be called by many threads.

    To nodes it is the network: its parts are the skeleton's, and so is its `__class__`. What they change of it, or
    of the skeleton's parts, would be nowhere when the worker computes: it is refused. A write that was refused
    spoils this object for good, because a node may take what it wrote before for proof that all is done.

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
        # Set past nn.Module: as a child it would be saved like weights.
        self.__dict__["remote"] = remote
        self.__dict__["weight_patches"] = None
        self.__dict__["hooks"] = None
        self.__dict__["told_of_control"] = False
        self.__dict__["skeleton"] = network
        self.__dict__["_meta"] = state_dict
        self.__dict__["_grown"] = {}
        self.__dict__["shapes"] = {_PREFIX + key: tuple(weight.shape) for key, weight in state_dict.items()}
        self.__dict__["_runs_wrappers"] = runs_wrappers(type(network))
        self.__dict__["_parts"] = NetworkParts(network)
        self.__dict__["_code"] = loaded_code.of_network(network, RemoteDiffusionModel, RemoteModel)
        # The skeleton's own: whoever walks over the parts finds them, and what is put into them is seen.
        for store in ("_modules", "_parameters", "_buffers"):
            self.__dict__[store] = vars(network)[store]

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
        """Return what a node has changed of the network, or of the code that it runs; None for nothing.

        It stays so, and ComfyUI keeps the loader's output: a loader that runs again gets a network without it.
        """
        found = tainted_models.reason(self.__dict__["remote"])
        if found is not None:
            return found
        parts: NetworkParts = self.__dict__["_parts"]
        return self._noticed(parts)

    def put_in_between(self) -> Obstacle | None:
        """As `put_in`, with what takes longer to compare: for the beginning and the end of a run."""
        found = self.put_in()
        if found is not None:
            return found
        parts: NetworkParts = self.__dict__["_parts"]
        changed = parts.changed_between()
        return None if changed is None else self._spoil(refusals.of_network(changed.part, changed.value))

    def _noticed(self, parts: NetworkParts) -> Obstacle | None:
        changed = parts.changed()
        if changed is not None:
            return self._spoil(refusals.of_network(changed.part, changed.value))
        code: loaded_code.UsedCode = self.__dict__["_code"]
        replaced = code.replaced()
        if replaced is None:
            return None
        loader_epoch.advance()
        return refusals.of_code(replaced.part, replaced.value)

    @property
    def foreign(self) -> tuple[Change, ...]:
        """What packs had replaced of the network's code before any prompt ran."""
        code: loaded_code.UsedCode = self.__dict__["_code"]
        return code.foreign

    def _spoil(self, obstacle: Obstacle) -> Obstacle:
        return tainted_models.spoil(self.__dict__["remote"], obstacle)

    def _refuse(self, part: str, value: Any = None) -> NoReturn:
        obstacle = refusals.of_network(part, value, code_origin.caller())
        raise UnsupportedPatchError((self._spoil(obstacle),))

    def _call(self, *args: Any, **kwargs: Any) -> Any:
        # Some nodes put their own into the network for the length of a call only.
        found = self.put_in()
        if found is not None:
            raise UnsupportedPatchError((found,))
        refuse_transforms(args, kwargs)
        if "transformer_options" in kwargs:
            kwargs = {**kwargs, "transformer_options": travelling_options(kwargs["transformer_options"])}
        remote: RemoteModel = self.__dict__["remote"]
        if kwargs.get("control") is not None:
            kwargs = {**kwargs, "control": self._control(remote, args, kwargs)}
        patches: WeightPatches | None = self.__dict__["weight_patches"]
        try:
            return remote.patched(patches, args, without_remade(kwargs), self.__dict__["hooks"])
        except ModelChangedError:
            loader_epoch.advance()
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
        if not grown and not shapes:
            return
        if (found := self.put_in_between()) is not None:
            raise UnsupportedPatchError((found,))
        for key in [*grown, *(key.removeprefix(_PREFIX) for key in shapes)]:
            shape = shapes.get(_PREFIX + key, self.shapes[_PREFIX + key])
            _reshape(self.__dict__["skeleton"], key, shape)
        self.__dict__["_grown"] = {key.removeprefix(_PREFIX): self._as_large(key, shapes[key]) for key in shapes}
        parts: NetworkParts = self.__dict__["_parts"]
        parts.accept_weights()

    def _as_large(self, key: str, shape: tuple[int, ...]) -> RemoteWeight:
        weight = torch.empty(shape, dtype=self.in_file(key).dtype, device="meta")
        return RemoteWeight.of(self.__dict__["remote"], key, weight)

    def load_state_dict(self, *_: Any, **__: Any) -> Any:
        """Refuse: the weights are at the worker.

        Raises:
            UnsupportedPatchError: always.
        """
        self._refuse("weights")

    def _apply(self, fn: Any, recurse: bool = True) -> Any:
        """Stand where nn.Module moves and converts its weights: there is nothing to move.

        Raises:
            UnsupportedPatchError: another dtype or memory format is asked for.
        """
        probe = torch.empty((1, 2, 2, 2), dtype=self.dtype)
        made = fn(probe)
        if made.dtype is not probe.dtype:
            self._refuse(f"dtype, to {made.dtype}")
        if not made.is_meta and made.stride() != probe.stride():
            self._refuse("memory format")
        return self

    def __deepcopy__(self, memo: Any) -> Any:
        """Refuse a network of one's own to change.

        Raises:
            RemoteWeightsError: always.
        """
        raise RemoteWeightsError(self.__dict__["remote"].description.ref.name, "to copy the network")

    def __setattr__(self, name: str, value: Any) -> None:
        """Set what is no part of the network.

        Raises:
            UnsupportedPatchError: the network has something of that name, or asks for it, and is at the worker.
        """
        parts: NetworkParts | None = self.__dict__.get("_parts")
        if parts is not None and name != "training" and parts.reads(name):
            self._refuse(name, value)
        super().__setattr__(name, value)

    def __delattr__(self, name: str) -> None:
        # unittest.mock takes back what could not be set, and its error would hide the refusal.
        if name in vars(self):
            super().__delattr__(name)
        elif hasattr(self.__dict__["skeleton"], name):
            self._spoil(refusals.of_network(name, by=code_origin.caller()))

    def _kind(self) -> type:
        skeleton = self.__dict__.get("skeleton")
        return RemoteDiffusionModel if skeleton is None else type(skeleton)

    # For whoever asks for the network's class, or for its name, as `isinstance` does too.
    __class__ = property(_kind)

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
