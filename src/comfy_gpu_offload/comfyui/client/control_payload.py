"""The `control` argument of a call: outputs of ControlNets that run here, references to those at the worker."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, NoReturn

import comfy.controlnet
import comfy.model_base
import comfy.model_management
import torch

from ...errors import RemoteControlNetError
from ..wire.control_data import KEY
from ..wire.control_outputs import pack_residuals
from . import node_lines

logger = logging.getLogger(__name__)

# ControlNets that take some of the model's own weights.
_READERS = (comfy.controlnet.ControlLora, comfy.controlnet.ControlNetSD35)


@dataclass(frozen=True, eq=False)
class RemoteControl:
    """A reference to a ControlNet at the worker, in the place of its outputs, which are never here.

    Attributes:
        applied: the fields of an `AppliedNet`.
        dtype: the dtype that the ControlNet computes in, or None for the model's own.
        x: the latent as the ControlNet reads it, [B, C, …], or None if it only needs the latent's size.
        timestep: see `CallInputs`; [B].
        context: see `CallInputs`; None if the ControlNet does not read it.
        conds: see `CallInputs`.
        chunks: see `CallInputs`.
        previous: the result of the ControlNets applied before it: outputs, another reference, or None.
    """

    applied: Mapping[str, Any]
    dtype: torch.dtype | None
    x: torch.Tensor | None
    timestep: torch.Tensor
    context: torch.Tensor | None
    conds: Mapping[str, Any]
    chunks: int
    previous: Any

    def _refuse(self, *_: object) -> NoReturn:
        """Refuse to be read: a ControlNet that runs here would add its own outputs to these.

        Raises:
            RemoteControlNetError: always.
        """
        raise RemoteControlNetError(
            "A ControlNet that runs here cannot be applied after one that runs at the worker, whose outputs are "
            "not here. Apply the one that runs here first: the sum is the same."
        )

    __getitem__ = __iter__ = __contains__ = __len__ = get = keys = values = items = _refuse


def control_to_send(
    control: Any, dtype: torch.dtype, args: tuple[Any, ...], kwargs: Mapping[str, Any]
) -> tuple[Any, int]:
    """Return a call's `control` as it goes to the worker, and the size in bytes of the outputs computed here.

    Outputs are sent as they were computed, because rounding them before they are added would change the sum. They
    are rounded to `dtype` only if this machine does not compute in it, where a local run's sum would differ anyway.

    Args:
        control: outputs of ControlNets by ComfyUI's names, or a `RemoteControl`.
        dtype: the dtype that the worker's model computes in.
        args: the call's positional arguments. Tensors among them that a ControlNet reads are not sent twice.
        kwargs: the call's keyword arguments, likewise.
    """
    if not isinstance(control, RemoteControl):
        return pack_residuals(control, None if _computes_in(dtype) else dtype)
    previous, size_bytes = None, 0
    if control.previous is not None:
        previous, size_bytes = control_to_send(control.previous, dtype, args, kwargs)
    sent = [value for value in (*args, *kwargs.values()) if isinstance(value, torch.Tensor)]
    fields = {**control.applied, **_inputs(control, dtype, sent), "chunks": control.chunks, "previous": previous}
    return {KEY: fields}, size_bytes


def _inputs(control: RemoteControl, dtype: torch.dtype, sent: list[torch.Tensor]) -> dict[str, Any]:
    """Return the inputs that the ControlNet computes from, in its dtype.

    Args:
        dtype: used if the ControlNet has no dtype of its own.
        sent: tensors of the call. One that equals an input takes its place, so that its data is sent once.
    """
    dtype = control.dtype or dtype

    def cast(value: Any) -> Any:
        if not isinstance(value, torch.Tensor):
            return value
        made = comfy.model_base.convert_tensor(value, dtype, value.device)
        return next((known for known in sent if _same(known, made)), made)

    return {
        "x": cast(control.x),
        "timestep": control.timestep.to(dtype),
        "context": cast(control.context),
        "conds": {name: cast(value) for name, value in control.conds.items()},
    }


def _same(known: torch.Tensor, made: torch.Tensor) -> bool:
    return _form(known) == _form(made) and torch.equal(known, made)


def _form(tensor: torch.Tensor) -> tuple[Any, ...]:
    return tensor.dtype, tensor.shape, tensor.stride(), tensor.device


def _computes_in(dtype: torch.dtype) -> bool:
    """Return whether ComfyUI on this machine computes in `dtype`."""
    management = comfy.model_management
    device = management.get_torch_device()
    if dtype is torch.float16:
        return bool(management.should_use_fp16(device))
    return dtype is not torch.bfloat16 or bool(management.should_use_bf16(device))


def refuse_weight_readers(function: Callable[..., dict[str, Any]], name: str) -> Callable[..., dict[str, Any]]:
    """Wrap a model's `extra_conds_shapes` so that it refuses ControlNets that would read the model's weights here.

    ComfyUI's Control-LoRA ignores weights that it cannot read, and would go on with uninitialised memory.

    Args:
        function: the method; it takes a condition's entries by name.
        name: the model's name.
    """

    def checked(**condition: Any) -> dict[str, Any]:
        for net in chain_of(condition.get("control")):
            if isinstance(net, _READERS):
                raise RemoteControlNetError(
                    f"This ControlNet (a {type(net).__name__}) needs some of the model's own weights, and those of "
                    f"{name!r} are at the worker. Load it with Remote ControlNet Loader: then it runs there."
                )
        return function(**condition)

    return checked


def chain_of(control: Any) -> Iterator[Any]:
    """Yield a ControlNet and those that are applied before it, the last one first; nothing for None."""
    while control is not None:
        yield control
        control = getattr(control, "previous_controlnet", None)


def warn_of_uploads(size_bytes: int) -> None:
    """Warn, in the log and on the running node, of a ControlNet here whose outputs every step uploads."""
    text = (
        f"A ControlNet or T2I adapter runs here: it adds up to {size_bytes / 1e6:.1f} MB to each step's upload. "
        "To run it at the worker, load it with Remote ControlNet Loader."
    )
    logger.warning("%s", text)
    node_lines.show(text)
