"""What a call carries of ControlNets and T2I adapters."""

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
from ..wire.control_outputs import to_data
from . import node_lines

logger = logging.getLogger(__name__)

# They take some of the model's own weights.
_READERS = (comfy.controlnet.ControlLora, comfy.controlnet.ControlNetSD35)


@dataclass(frozen=True, eq=False)
class RemoteControl:
    """Stands where a ControlNet's residuals would, which are at the worker and never here.

    Attributes:
        applied: an `AppliedNet`'s fields.
        dtype: what the control net computes in, or None for the model's own.
        x: the latent as the control net reads it, or None where it looks at the size alone.
        timestep, context, conds, chunks: see `CallInputs`.
        previous: what the control nets before this one gave: residuals, another of these, or None.
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
        """Refuses whatever would merge its own residuals with these.

        Raises:
            RemoteControlNetError: always.
        """
        raise RemoteControlNetError(
            "A ControlNet that runs here was applied after one that runs at the worker, whose residuals are not "
            "here. Apply the one that runs here first: the sum is the same."
        )

    __getitem__ = __iter__ = __contains__ = __len__ = get = keys = values = items = _refuse


def travelling_control(
    control: Any, dtype: torch.dtype, args: tuple[Any, ...], kwargs: Mapping[str, Any]
) -> tuple[Any, int]:
    """A call's `control` as it goes to the worker, and the bytes of residuals that were computed here.

    Residuals go as they were computed, since rounding one before it is added makes another sum. Only where this
    machine does not compute in `dtype`, the model's, and so could not give the same anyway, wider ones are rounded.

    Args:
        args, kwargs: the call's: what a control net at the worker reads of them is not sent again.
    """
    if not isinstance(control, RemoteControl):
        return to_data(control, None if _computes_in(dtype) else dtype)
    previous, size_bytes = None, 0
    if control.previous is not None:
        previous, size_bytes = travelling_control(control.previous, dtype, args, kwargs)
    sent = [value for value in (*args, *kwargs.values()) if isinstance(value, torch.Tensor)]
    fields = {**control.applied, **_inputs(control, dtype, sent), "chunks": control.chunks, "previous": previous}
    return {KEY: fields}, size_bytes


def _inputs(control: RemoteControl, dtype: torch.dtype, sent: list[torch.Tensor]) -> dict[str, Any]:
    """What the control net computes from, as it would itself make it of what it is given."""
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
    """Whether ComfyUI computes here in the dtype that the worker's model has."""
    management = comfy.model_management
    device = management.get_torch_device()
    if dtype is torch.float16:
        return bool(management.should_use_fp16(device))
    return dtype is not torch.bfloat16 or bool(management.should_use_bf16(device))


def refusing_readers(function: Callable[..., dict[str, Any]], name: str) -> Callable[..., dict[str, Any]]:
    """`function`, of a condition, which refuses ControlNets that would read the model's weights here.

    Control-LoRA passes over what it cannot read, and would go on with whatever lay in memory.

    Args:
        name: the model's.
    """

    def checked(**condition: Any) -> dict[str, Any]:
        for net in chain_of(condition.get("control")):
            if isinstance(net, _READERS):
                raise RemoteControlNetError(
                    f"This ControlNet (a {type(net).__name__}) takes some of the model's own weights, and those of "
                    f"{name!r} are at the worker. Load it with Remote ControlNet Loader: then it runs there."
                )
        return function(**condition)

    return checked


def chain_of(control: Any) -> Iterator[Any]:
    """A control net and those before it."""
    while control is not None:
        yield control
        control = getattr(control, "previous_controlnet", None)


def warn_of_residuals(size_bytes: int) -> None:
    """Tells the user what each step sends of a ControlNet that runs here, in the log and on the node."""
    text = (
        f"A ControlNet or T2I adapter runs here: it adds up to {size_bytes / 1e6:.1f} MB to each step's upload. "
        "Remote ControlNet Loader runs it at the worker."
    )
    logger.warning("%s", text)
    node_lines.show(text)
