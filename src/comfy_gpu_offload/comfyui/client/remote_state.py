"""The state of a remote model, kept in ComfyUI's objects where nodes do not look.

ComfyUI's model and the stand-in for its network are objects that nodes read, walk over, copy and compare. Each of
the two carries one private entry in its `__dict__`, past `nn.Module`, whose type is declared here.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final, NoReturn

import torch
from torch import nn

from ...client.remote_model import RemoteModel
from ...client.weight_patches import HookPatches, WeightPatches
from ...errors import RemoteWeightsError
from .changes.loaded_code import UsedCode
from .changes.model_state import ModelState
from .changes.network_parts import NetworkParts

# Attributes whose names begin with an underscore are not compared for changes (`model_state`).
_NETWORK_KEY: Final = "_remote_state"
_MODEL_KEY: Final = "_remote_record"


@dataclass(eq=False)
class RemoteState:
    """The state of one stand-in network.

    Attributes:
        remote: where calls go.
        skeleton: ComfyUI's network without weights, which answers for every attribute.
        file_weights: stand-ins for the weights of the worker's keys, of the shapes that they have in its file.
        file_shapes: these shapes, by key with ComfyUI's prefix.
        runs_wrappers: whether the network's own forward pass runs `DIFFUSION_MODEL` wrappers.
        parts: the skeleton's parts as they were when it was built.
        code: the code that the network runs, as it was then.
        grown: stand-ins for the weights that patches have made larger, by key.
        weight_patches: patches that every call names until another patcher is loaded; None for none.
        hooks: what hooks have put on the weights besides; None in a run without hooks.
        warned_of_control: whether this run has been warned of ControlNets whose outputs every call carries.
    """

    remote: RemoteModel
    skeleton: nn.Module
    file_weights: Mapping[str, torch.Tensor]
    file_shapes: Mapping[str, tuple[int, ...]]
    runs_wrappers: bool
    parts: NetworkParts
    code: UsedCode
    grown: dict[str, torch.Tensor] = field(default_factory=dict)
    weight_patches: WeightPatches | None = None
    hooks: HookPatches | None = None
    warned_of_control: bool = False

    def __deepcopy__(self, memo: Any) -> NoReturn:
        """Refuse to copy a module that is at the worker: a node would change the copy.

        Raises:
            RemoteWeightsError: always.
        """
        raise RemoteWeightsError(self.remote.description.ref.name, "to copy the network")

    def begin_run(self, hooks: HookPatches | None) -> None:
        """Forget the run before this one, which begins with `hooks`."""
        self.warned_of_control = False
        self.set_hooks(hooks)

    def set_hooks(self, hooks: HookPatches | None) -> None:
        """Have the calls that follow name `hooks`; None for none."""
        self.hooks = hooks

    def first_control_warning(self) -> bool:
        """Return whether this run is to be warned of its ControlNets now: once a run."""
        first, self.warned_of_control = not self.warned_of_control, True
        return first


@dataclass(eq=False)
class ModelRecord:
    """The state of one ComfyUI model whose network is remote.

    Attributes:
        remote: the worker's model.
        as_loaded: the model's attributes, sampling and latent format, as they were when it was loaded.
        worker_release: the worker's ComfyUI at that time; None where it is not known.
        moved_with: `patches_uuid` of the patcher with which the model's other parts were last moved to the device.
    """

    remote: RemoteModel
    as_loaded: ModelState
    worker_release: str | None
    moved_with: Any = None


def keep_state(network: nn.Module, state: RemoteState) -> None:
    """Give a stand-in its state, past `nn.Module`: as a child the skeleton would be saved like weights."""
    network.__dict__[_NETWORK_KEY] = state


def state_of(network: nn.Module) -> RemoteState:
    """Return a stand-in's state.

    Raises:
        KeyError: `network` is no stand-in, or one that is still being built.
    """
    state: RemoteState = network.__dict__[_NETWORK_KEY]
    return state


def has_state(network: nn.Module) -> bool:
    """Return whether a stand-in has got its state, which it has not while `nn.Module` builds it."""
    return _NETWORK_KEY in network.__dict__


def keep_record(model: Any, record: ModelRecord) -> None:
    """Give a ComfyUI `BaseModel` its record."""
    model.__dict__[_MODEL_KEY] = record


def record_of(model: Any) -> ModelRecord:
    """Return the record of a ComfyUI `BaseModel` whose network is remote.

    Raises:
        KeyError: its network is not remote.
    """
    record: ModelRecord = model.__dict__[_MODEL_KEY]
    return record
