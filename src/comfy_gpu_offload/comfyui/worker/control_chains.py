"""Chains of ControlNets at the worker, in a call or in a whole run, computed by ComfyUI's own code.

Their residuals stay at the worker: a call names a net, and brings the inputs that it is computed from.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import comfy.controlnet
import torch

from ...backends.base import BackendError, ModelRunError, is_out_of_memory, on_device
from ...io.strides import copied, moved
from ..wire.control_data import MAX_CHAIN, AppliedNet, CallInputs, RunNet, remote_net_fields
from ..wire.control_outputs import unpack_residuals
from .modules.control_net import ControlNet, PreparedNet

_CPU = torch.device("cpu")
_CHECK = "Check that the ControlNet was made for this kind of model."
# The number of copies of one net that are kept; each holds its picture on the device.
_MAX_PREPARED = 4


# Gives the ControlNet of that file's name, if it has that fingerprint.
LoadNet = Callable[[str, str], ControlNet]


@dataclass(frozen=True)
class Chain:
    """The ControlNets of a call.

    Attributes:
        nets: the one that is computed first at the front.
        residuals: those that the client computed, which come before all.
    """

    nets: Sequence[tuple[ControlNet, AppliedNet, CallInputs]]
    residuals: Any

    def models(self) -> list[Any]:
        """Return the patchers of all nets, for ComfyUI's memory management."""
        return [patcher for module, _, _ in self.nets for patcher in module.patchers()]

    def memory_required(self, dtype: torch.dtype) -> int:
        """Return the bytes that they take beside their weights, in a model of that dtype."""
        return sum(int(module.net.inference_memory_requirements(dtype)) for module, _, _ in self.nets)

    def compute(self, patcher: Any, latent: Any) -> Any:
        """Return the residuals that the network is given as `control`.

        Args:
            patcher: the model's, which is on its device.
            latent: the network's own input `[B, C, …]`.

        Raises:
            ModelRunError: a net does not go with this model, or with these inputs.
        """
        control = on_device(self.residuals, patcher.load_device)
        for module, applied, inputs in self.nets:
            x, timestep, cond = _inputs(module.net, inputs, latent, patcher.load_device)
            net = _prepared(module, applied, patcher, (tuple(x.shape), inputs.chunks))
            with net_errors(applied.net), _running(net, applied, patcher, control):
                control = net.get_control(x, timestep, cond, inputs.chunks, {})
        return control


def read_chain(control: Any, load: LoadNet) -> Chain | None:
    """Return a call's ControlNets, loaded; None where it has none.

    Raises:
        ModelRunError: it is not of the form known here.
        BackendError: as `load`.
    """
    fields = remote_net_fields(control)
    if fields is None:
        return None
    found: list[tuple[AppliedNet, CallInputs]] = []
    while fields is not None:
        if len(found) == MAX_CHAIN:
            raise ModelRunError(f"There are over {MAX_CHAIN} ControlNets, one after another: apply fewer.")
        found.append((AppliedNet.of(fields), CallInputs.of(fields)))
        control = fields.get("previous")
        fields = remote_net_fields(control)
    nets = [(load(applied.net, applied.fingerprint), applied, inputs) for applied, inputs in reversed(found)]
    return Chain(nets, unpack_residuals(control))


def build_run_nets(table: Sequence[RunNet], load: LoadNet) -> list[Any]:
    """Return a whole run's ControlNets as ComfyUI has them in conditioning.

    Raises:
        BackendError: as `load`.
    """
    made: list[Any] = []
    for entry in table:
        module = load(entry.applied.net, entry.applied.fingerprint)
        net = _set_up(module.net, entry.applied, (entry.start, entry.end))
        net.extra_args.update(_arguments(entry.applied))
        # On this copy alone, which serves one run.
        net.get_control = _naming_errors(net.get_control, entry.applied.net)
        net.pre_run = _naming_errors(net.pre_run, entry.applied.net)
        if entry.previous is not None:
            net.set_previous_controlnet(made[entry.previous])
        made.append(net)
    return made


@contextmanager
def net_errors(name: str) -> Iterator[None]:
    """Map errors of a ControlNet to one that names it, and not the model that it is for.

    Raises:
        ModelRunError: the net does not go with this model, or with these inputs.
    """
    try:
        yield
    except BackendError:
        raise
    except Exception as error:
        if is_out_of_memory(error):
            raise
        text = f"{type(error).__name__}: {str(error)[:500]}"
        raise ModelRunError(f"The ControlNet {name!r} raised {text}. {_CHECK}") from error


def _naming_errors(function: Callable[..., Any], name: str) -> Callable[..., Any]:
    def named(*args: Any, **kwargs: Any) -> Any:
        with net_errors(name):
            return function(*args, **kwargs)

    return named


class _EncodedPicture:
    """A stand-in for a VAE that has encoded the picture already."""

    def __init__(self, latent: torch.Tensor) -> None:
        self._latent = latent

    def spacial_compression_encode(self) -> int:
        """Return 1, so that the picture, which is not looked at, is no larger than it must be."""
        return 1

    def encode(self, pixels: torch.Tensor) -> torch.Tensor:
        """Return the latent that came with the call."""
        if pixels.shape[1:3] != self._latent.shape[-2:]:
            raise ModelRunError(
                "The ControlNet's encoded picture is not of the latent's size: use the same release on both sides."
            )
        return copied(self._latent)


class _PreviousNet:
    """A stand-in for the previous ControlNet, which has been computed already."""

    def __init__(self, control: Any) -> None:
        self._control = control

    def get_control(self, *_: Any) -> Any:
        """Return its residuals."""
        return self._control


class _ScaledInputs:
    """A stand-in for a model's sampling, where latent and timestep come scaled as the model takes them."""

    def timestep(self, timestep: torch.Tensor) -> torch.Tensor:
        """Return the timestep as it is."""
        return timestep

    def calculate_input(self, _: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
        """Return the latent as it is."""
        return x


@contextmanager
def _running(net: Any, applied: AppliedNet, patcher: Any, previous: Any) -> Iterator[None]:
    """Set a prepared net up for one call of `get_control`."""
    net.strength = applied.strength
    net.extra_args.update(_arguments(applied))
    try:
        if not _is_of_the_model(net):
            net.pre_run(patcher.model, _unchanged)
        net.previous_controlnet = _PreviousNet(previous)
        net.timestep_range = None  # the client has compared the time with it
        net.model_sampling_current = _ScaledInputs()
        yield
    finally:
        net.previous_controlnet = None
        net.extra_args.clear()


def _inputs(
    net: Any, inputs: CallInputs, latent: Any, device: torch.device
) -> tuple[torch.Tensor, torch.Tensor, dict[str, torch.Tensor | None]]:
    if not isinstance(latent, torch.Tensor):
        raise ModelRunError(
            "A ControlNet was applied to a model whose latent has several parts (audio with video): remove it."
        )
    known = set(net.extra_conds)
    if unknown := sorted(set(inputs.conds) - known):
        raise ModelRunError(f"The ControlNet takes no {unknown[0]!r:.80}: use the same release on both sides.")
    if inputs.x is None and not hasattr(net, "t2i_model"):
        raise ModelRunError("The ControlNet's latent is missing: use the same release on both sides.")
    # A copy: nothing that a net does to it may reach the network.
    x = torch.zeros_like(latent, dtype=torch.float32) if inputs.x is None else copied(moved(inputs.x, device))
    if x.shape[0] != latent.shape[0] or x.shape[2:] != latent.shape[2:] or x.shape[0] % inputs.chunks:
        raise ModelRunError(
            "The ControlNet's latent is not of the model's size: use the same release on both sides."
        )
    cond = {"c_crossattn": inputs.context, **inputs.conds}
    return x, inputs.timestep.to(device), on_device(cond, device)


def _prepared(module: ControlNet, applied: AppliedNet, patcher: Any, sizes: tuple[Any, ...]) -> Any:
    """Return a copy of the net with that picture.

    Copies are kept, since ComfyUI keeps the resized picture in one, and an adapter keeps its result.
    """
    key = (id(patcher.model), patcher.patches_uuid, applied.encoded, *sizes)
    for place, known in enumerate(module.prepared):
        if known.fits(key, applied):
            module.prepared.append(module.prepared.pop(place))
            return known.net
    most = 1 if _is_of_the_model(module.net) else _MAX_PREPARED
    while len(module.prepared) >= most:
        module.prepared.pop(0).net.cleanup()
    net = _set_up(module.net, applied, (0.0, 1.0))
    if _is_of_the_model(net):
        net.pre_run(patcher.model, _unchanged)
    module.prepared.append(PreparedNet(key, applied, net))
    return net


def _is_of_the_model(net: Any) -> bool:
    """Return whether the net is made of the model's weights before each run (Control-LoRA), which takes long."""
    return isinstance(net, comfy.controlnet.ControlLora)


def _set_up(net: Any, applied: AppliedNet, times: tuple[float, float]) -> Any:
    image = torch.zeros(1, 3, 1, 1) if applied.encoded else applied.picture
    vae = _EncodedPicture(applied.picture) if applied.encoded else None
    if (net.latent_format is None) == applied.encoded or image.dim() != 4:
        raise ModelRunError(
            "The ControlNet's picture is not of the form that this one takes: use the same release on both sides."
        )
    return net.copy().set_cond_hint(image.to(_CPU), applied.strength, times, vae=vae, extra_concat=applied.masks)


def _arguments(applied: AppliedNet) -> Mapping[str, Any]:
    return {} if applied.control_type is None else {"control_type": list(applied.control_type)}


def _unchanged(percent: float) -> float:
    return percent
