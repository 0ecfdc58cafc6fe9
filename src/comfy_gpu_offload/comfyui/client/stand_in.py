"""The stand-in for a ComfyUI model's network: it answers as the network does, and calls the worker."""

from __future__ import annotations

import logging
from collections import OrderedDict
from collections.abc import Callable, Mapping
from functools import partial
from types import FunctionType
from typing import Any, NoReturn

import comfy.patcher_extension
import torch
from torch import nn

from ...client.remote_model import RemoteModel
from ...errors import ModelChangedError, Obstacle, RemoteWeightsError, UnsupportedPatchError
from ...protocol.messages import FORWARD
from ..wire.network_methods import METHOD, METHODS
from . import loader_epoch, refusals
from .changes import code_origin, loaded_code, tainted_models
from .changes.network_parts import Change, NetworkParts
from .control_payload import control_to_send, warn_of_uploads
from .recomputable_inputs import without_recomputable
from .remote_state import RemoteState, has_state, keep_state, state_of
from .remote_weight import RemoteWeight
from .torch_transforms import refuse_transforms
from .travel_policy import options_to_send

logger = logging.getLogger(__name__)

_PREFIX = "diffusion_model."
# Raises for the named part.
Refuse = Callable[[str], NoReturn]


class RemoteDiffusionModel(nn.Module):
    """A network whose forward pass is remote. May be called by many threads.

    To nodes it is the network: its parts are the skeleton's, and so is its `__class__`. A node's change to it, or
    to one of the skeleton's parts, would have no effect at the worker, so it is refused. A refused write makes this
    object unusable for good, because a node may take what it wrote before the refusal for proof that all is done.

    Args:
        remote: where calls go.
        network: the skeleton's network, which answers for every attribute.
        dtype: of the worker's weights.
        state_dict: stand-ins for the weights, by the worker's keys.
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
        state = RemoteState(
            remote=remote,
            skeleton=network,
            file_weights=state_dict,
            file_shapes={_PREFIX + key: tuple(weight.shape) for key, weight in state_dict.items()},
            runs_wrappers=runs_wrappers(type(network)),
            parts=NetworkParts(network),
            code=loaded_code.of_network(network, RemoteDiffusionModel, RemoteModel),
        )
        # The skeleton's own dicts: whoever walks over the parts finds them, and additions to them are noticed.
        for store in ("_modules", "_parameters", "_buffers"):
            self.__dict__[store] = vars(network)[store]
        keep_state(self, state)

    def forward(self, x: Any, timesteps: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
        """Return the network's output for a latent, in the latent's dtype.

        The wrappers that the network would run inside its own forward pass run here, so that a step which one of
        them skips (EasyCache) never reaches the worker. If the network itself runs none, none run.

        Args:
            x: the latent, [B, C, …], or a list of them, in the compute dtype.
            timesteps: [B].
            args: what else the network takes.
            kwargs: the same, by name: conditioning, `control`, `transformer_options`.

        Raises:
            UnsupportedPatchError: the call carries code that cannot be sent.
        """
        if not state_of(self).runs_wrappers:
            return self._call(x, timesteps, *args, **kwargs)
        options = kwargs.get("transformer_options", {})
        wrappers = comfy.patcher_extension.get_all_wrappers(
            comfy.patcher_extension.WrappersMP.DIFFUSION_MODEL, options
        )
        executor = comfy.patcher_extension.WrapperExecutor.new_class_executor(self._call, self, wrappers)
        return executor.execute(x, timesteps, *args, **kwargs)

    def found_change(self) -> Obstacle | None:
        """Return what a node has changed of the network or of the code that it runs; None for nothing.

        The change stays, and ComfyUI keeps the loader's output, so the loader is made to run again: it then builds
        a network without the change.
        """
        state = state_of(self)
        found = tainted_models.reason(state.remote)
        if found is not None:
            return found
        changed = state.parts.changed()
        if changed is not None:
            return self._mark_unusable(refusals.of_network(changed.part, changed.value))
        replaced = state.code.replaced()
        if replaced is None:
            return None
        loader_epoch.advance()
        return refusals.of_code(replaced.part, replaced.value)

    def found_change_in_depth(self) -> Obstacle | None:
        """Return the same as `found_change`, after slower comparisons: for the beginning and the end of a run."""
        found = self.found_change()
        if found is not None:
            return found
        changed = state_of(self).parts.changed_between()
        return None if changed is None else self._mark_unusable(refusals.of_network(changed.part, changed.value))

    @property
    def foreign(self) -> tuple[Change, ...]:
        """The network's code that node packs had replaced before any prompt ran."""
        return state_of(self).code.foreign

    def _mark_unusable(self, obstacle: Obstacle) -> Obstacle:
        return tainted_models.mark_unusable(state_of(self).remote, obstacle)

    def _refuse(self, part: str, value: Any = None) -> NoReturn:
        obstacle = refusals.of_network(part, value, code_origin.caller())
        raise UnsupportedPatchError((self._mark_unusable(obstacle),))

    def _call(self, *args: Any, _method: str = FORWARD, **kwargs: Any) -> Any:
        # Some nodes put their own code into the network for the length of a call only.
        found = self.found_change()
        if found is not None:
            raise UnsupportedPatchError((found,))
        refuse_transforms(args, kwargs)
        state = state_of(self)
        if "transformer_options" in kwargs:
            kwargs = {**kwargs, "transformer_options": options_to_send(kwargs["transformer_options"])}
        if kwargs.get("control") is not None:
            kwargs = {**kwargs, "control": _control(state, args, kwargs)}
        try:
            sent = without_recomputable(kwargs)
            return state.remote.patched(state.weight_patches, args, sent, state.hooks, method=_method)
        except ModelChangedError:
            loader_epoch.advance()
            raise

    def _call_method(self, name: str, *args: Any, **kwargs: Any) -> Any:
        """Call another method of the network than its forward pass."""
        if state_of(self).remote.knows_modules:
            return self._call(*args, _method=name, **kwargs)
        return self._call(*args, **{**kwargs, METHOD: name})

    def state_dict(self, *args: Any, **kwargs: Any) -> Any:
        """Return stand-ins for the weights by the worker's keys, which LoRA key maps are made of.

        They have shapes and dtypes, and no data: they are on the meta device.
        """
        destination = kwargs.get("destination", args[0] if args else None)
        prefix = kwargs.get("prefix", args[1] if len(args) > 1 else "")
        into: Any = OrderedDict() if destination is None else destination
        state = state_of(self)
        weights = {**state.file_weights, **state.grown}
        into.update({prefix + key: tensor for key, tensor in weights.items()})
        return into

    def in_file(self, key: str) -> torch.Tensor:
        """Return the stand-in for the weight of that key, of the shape that it has in the model's file."""
        return state_of(self).file_weights[key.removeprefix(_PREFIX)]

    def grow(self, shapes: Mapping[str, tuple[int, ...]]) -> None:
        """Give the weights in `shapes` the shapes that patches make them, and all others their own.

        ComfyUI reads from a network's first layer what to call it with: a model to which a LoRA has added input
        channels is called with more channels.

        Args:
            shapes: of the weights that are larger with patches, by key.

        Raises:
            UnsupportedPatchError: a node has changed the network before.
        """
        state = state_of(self)
        if not state.grown and not shapes:
            return
        if (found := self.found_change_in_depth()) is not None:
            raise UnsupportedPatchError((found,))
        for key in [*state.grown, *(key.removeprefix(_PREFIX) for key in shapes)]:
            _reshape(state.skeleton, key, shapes.get(_PREFIX + key, state.file_shapes[_PREFIX + key]))
        state.grown = {key.removeprefix(_PREFIX): self._as_large(key, shapes[key]) for key in shapes}
        state.parts.accept_weights()

    def _as_large(self, key: str, shape: tuple[int, ...]) -> RemoteWeight:
        weight = torch.empty(shape, dtype=self.in_file(key).dtype, device="meta")
        return RemoteWeight.of(state_of(self).remote, key, weight)

    def load_state_dict(self, *_: Any, **__: Any) -> Any:
        """Refuse: the weights are at the worker.

        Raises:
            UnsupportedPatchError: always.
        """
        self._refuse("weights")

    def _apply(self, fn: Any, recurse: bool = True) -> Any:
        """Do nothing where `nn.Module` would move and convert its weights: there is nothing to move.

        Raises:
            UnsupportedPatchError: `fn` changes the dtype or the memory format.
        """
        refuse_conversion(fn, self.dtype, self._refuse)
        return self

    def __deepcopy__(self, memo: Any) -> Any:
        """Refuse to copy the network: a node would change the copy.

        Raises:
            RemoteWeightsError: always.
        """
        raise RemoteWeightsError(state_of(self).remote.description.ref.name, "to copy the network")

    def __setattr__(self, name: str, value: Any) -> None:
        """Set an attribute that the network does not have and its code does not read.

        Raises:
            UnsupportedPatchError: the network has or reads an attribute of that name, and it is at the worker.
        """
        if name != "training" and has_state(self) and state_of(self).parts.reads(name):
            self._refuse(name, value)
        super().__setattr__(name, value)

    def __delattr__(self, name: str) -> None:
        # unittest.mock takes back what could not be set, and its error would hide the refusal.
        if name in vars(self):
            super().__delattr__(name)
        elif hasattr(state_of(self).skeleton, name):
            self._mark_unusable(refusals.of_network(name, by=code_origin.caller()))

    def _kind(self) -> type:
        return type(state_of(self).skeleton) if has_state(self) else RemoteDiffusionModel

    # For code that asks for the network's class or its name, `isinstance` among it.
    __class__ = property(_kind)

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            found = getattr(state_of(self).skeleton, name)
            return partial(self._call_method, name) if name in METHODS else found


def refuse_conversion(fn: Callable[[torch.Tensor], torch.Tensor], dtype: torch.dtype, refuse: Refuse) -> None:
    """Call `refuse` with what would change where a function on weights does more than move them.

    Args:
        fn: `nn.Module` would apply it to each weight.
        dtype: of the weights.
    """
    probe = torch.empty((1, 2, 2, 2), dtype=dtype)
    made = fn(probe)
    if made.dtype is not probe.dtype:
        refuse(f"dtype, to {made.dtype}")
    if not made.is_meta and made.stride() != probe.stride():
        refuse("memory format")


def _control(state: RemoteState, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Return the call's `control` as data; a warning is shown, once a run, if it carries ControlNets' outputs."""
    data, size_bytes = control_to_send(kwargs["control"], state.remote.dtype, args, kwargs)
    if size_bytes and state.first_control_warning():
        warn_of_uploads(size_bytes)
    return data


def runs_wrappers(network: type[nn.Module]) -> bool:
    """Return whether a network's own code runs `DIFFUSION_MODEL` wrappers: SD3's, PixArt's and others do not."""
    methods = (value for kind in network.__mro__ for value in vars(kind).values())
    return any(
        "DIFFUSION_MODEL" in method.__code__.co_names for method in methods if isinstance(method, FunctionType)
    )


def _reshape(network: nn.Module, key: str, shape: tuple[int, ...]) -> None:
    """Give a parameter without data another shape, in place: it stays the same object."""
    owner, _, name = key.rpartition(".")
    try:
        weight = getattr(network.get_submodule(owner), name)
    except AttributeError:  # of a release of ComfyUI that names it otherwise
        return
    if isinstance(weight, torch.Tensor) and weight.is_meta and tuple(weight.shape) != shape:
        # A tensor made in inference mode takes the data of such a tensor alone.
        with torch.inference_mode(weight.is_inference()), torch._C.DisableTorchFunctionSubclass():
            weight.data = torch.empty(shape, dtype=weight.dtype, device="meta")
