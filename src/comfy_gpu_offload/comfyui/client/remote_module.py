"""The calls of one of ComfyUI's objects whose network is at the worker: a VAE, a CLIP vision model.

Such an object is of ComfyUI's own class, or of one derived from it. Its network is a skeleton without weights, its
methods run at the worker as a whole, and whatever nodes change of it that the worker would not see is refused.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Iterator, Mapping
from types import ModuleType
from typing import Any, Final, NoReturn, Self

import torch
from torch import nn

from ...client.remote_model import RemoteModel
from ...errors import ModelChangedError, Obstacle, RemoteWeightsError, UnsupportedPatchError
from ...protocol.messages import Keep
from . import loader_epoch, refusals
from .changes import loaded_code, swallowed_refusals, tainted_models
from .changes.network_parts import NetworkParts
from .patches.patch_uploads import report_skipped, upload_bar, weight_obstacles
from .patches.weight_hooks import hook_obstacles
from .remote_state import RemoteState, keep_state, state_of
from .remote_weight import RemoteWeight, stand_in_for_weights
from .stand_in import refuse_conversion
from .weightless_patcher import WeightlessPatcher

_ABSENT: Final = object()


class RemoteModulePatcher(WeightlessPatcher):
    """The patcher of such a network."""

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


class EmptyNetwork(nn.Module):
    """The stand-in for a network whose layers only the worker's code walks over: it has none."""

    def __init__(self, remote: RemoteModel) -> None:
        super().__init__()
        self._remote = (remote,)  # a module in an attribute would be a layer

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Refuse, unless `ModuleCalls.stand_in` has put a call to the worker in place of this.

        Raises:
            RemoteWeightsError: always.
        """
        raise RemoteWeightsError(self._remote[0].description.ref.name, "to call the network itself")

    def _apply(self, fn: Any, recurse: bool = True) -> Self:
        """Do nothing where weights would be moved, which are at the worker.

        Raises:
            RemoteWeightsError: they would be converted.
        """
        refuse_conversion(fn, self._remote[0].dtype, self._refuse)
        return self

    def _refuse(self, what: str) -> NoReturn:
        raise RemoteWeightsError(self._remote[0].description.ref.name, f"to change their {what}")


class ModuleCalls:
    """The calls of one object.

    Attributes:
        network: the skeleton.

    Args:
        remote: the worker's module.
        owner: the object, whose `patcher` is a `RemoteModulePatcher`.
        holder: the name of the attribute that holds the network.
        read_there: names of attributes that the object's methods at the worker read.
    """

    def __init__(self, remote: RemoteModel, owner: Any, holder: str, read_there: Iterable[str]) -> None:
        self._remote = remote
        self._owner = owner
        self._holder = holder
        self.network: nn.Module = getattr(owner, holder)
        self._as_loaded = {name: _kept(getattr(owner, name, _ABSENT)) for name in read_there}

    def stand_in(
        self,
        methods: Mapping[str, Callable[..., Any]],
        *code: ModuleType | type,
        free: frozenset[str] = frozenset(),
        prefixes: tuple[str, ...] = (),
    ) -> None:
        """Make the network the stand-in for the worker's: its weights, its methods, and the watch over its parts.

        Args:
            methods: functions in the place of the network's own methods, where it has such.
            code: classes and modules that the object's methods are made of, besides the network's.
            free: attributes of the network that may change, because calls send them.
            prefixes: as in `loaded_code.of_network`.
        """
        network = self.network
        weights = {
            key: RemoteWeight.of(self._remote, key, weight)
            for key, weight in network.state_dict().items()
            if weight.is_meta
        }
        stand_in_for_weights(self._remote, network, "")
        for name, method in methods.items():
            if callable(getattr(network, name, None)):
                setattr(network, name, _Method(method))
        state = RemoteState(
            remote=self._remote,
            skeleton=network,
            file_weights=weights,
            file_shapes={key: tuple(weight.shape) for key, weight in weights.items()},
            runs_wrappers=False,
            parts=NetworkParts(network, {network: free}),
            code=loaded_code.of_network(network, *code, RemoteModel, prefixes=prefixes),
        )
        keep_state(network, state)

    def ask(
        self,
        method: str,
        args: tuple[Any, ...],
        kwargs: Mapping[str, Any],
        *,
        has_pictures: bool = False,
        keep_result: Keep | None = None,
    ) -> Any:
        """Return the worker's result of a method, with its tensors on the CPU.

        Args:
            has_pictures, keep_result: as in `ModelCall`.

        Raises:
            UnsupportedPatchError: something of the object has been changed that the worker does not see.
        """
        self._refuse_changes()
        self._owner.patcher.ready()
        try:
            return self._remote.patched(
                state_of(self.network).weight_patches,
                args,
                kwargs,
                method=method,
                device=torch.device("cpu"),
                on_received=upload_bar(),
                has_pictures=has_pictures,
                keep_result=keep_result,
            )
        except ModelChangedError:
            loader_epoch.advance()
            raise

    def _refuse_changes(self) -> None:
        """Refuse a call if something that only the worker computes with has been changed since it was loaded.

        Raises:
            UnsupportedPatchError: it has.
            RemoteWeightError: a node has caught the refusal to change a weight, and gone on.
        """
        swallowed_refusals.report(self._remote)
        found = self._change()
        if found is not None:
            raise UnsupportedPatchError((found,))

    def _change(self) -> Obstacle | None:
        state = state_of(self.network)
        found = tainted_models.reason(self._remote)
        if found is not None:
            return found
        held = getattr(self._owner, self._holder)
        if held is not self.network or self._owner.patcher.model is not self.network:
            return self._unusable(refusals.of_network(self._holder, held))
        for name, was in self._as_loaded.items():
            now = getattr(self._owner, name, _ABSENT)
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
        return tainted_models.mark_unusable(self._remote, obstacle)


class _Method:
    """A method of the network that is called at the worker."""

    def __init__(self, call: Callable[..., Any]) -> None:
        self._call = call

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self._call(*args, **kwargs)


def _kept(value: Any) -> Any:
    """Return a value that stays as it is: a copy of what nodes may write into."""
    return copy.deepcopy(value) if isinstance(value, list | dict) else value


def _equal(one: Any, other: Any) -> bool:
    try:
        return type(one) is type(other) and bool(one == other)
    except Exception:  # an object's own comparison may raise
        return False
