"""Torch's state around a call, as far as it decides what a model computes; docs/protocol.md, "Torch's state"."""

from __future__ import annotations

from typing import Final, Literal

import torch

from ..errors import UnsupportedStateError
from ..protocol.messages import Autocast

_AUTOCAST: Final[dict[torch.dtype, Literal["bfloat16", "float16"]]] = {
    torch.bfloat16: "bfloat16",
    torch.float16: "float16",
}


def refuse_default_dtype() -> None:
    """Raise UnsupportedStateError where tensors that the model makes itself would be of another dtype."""
    dtype = torch.get_default_dtype()
    if dtype is not torch.float32:
        raise UnsupportedStateError(
            f"torch's default dtype is {dtype} here, and float32 at the worker. Call the model with "
            "torch.set_default_dtype(torch.float32), and give it tensors of the dtype that you want."
        )


def autocast_on(device: torch.device, obstacle: str | None = None) -> Autocast | None:
    """Return what `torch.autocast` does to tensors on `device`, or None where it is off.

    Args:
        obstacle: why it cannot go with the call, if so.

    Raises:
        UnsupportedStateError: it is on, and cannot go with the call.
    """
    if not torch.amp.is_autocast_available(device.type) or not torch.is_autocast_enabled(device.type):
        return None
    dtype = torch.get_autocast_dtype(device.type)
    if dtype not in _AUTOCAST:
        obstacle = f"it casts to {dtype}, and a worker casts to {' or '.join(_AUTOCAST.values())}"
    if obstacle is not None:
        raise UnsupportedStateError(
            f"torch.autocast is on for {device.type} around a remote call: {obstacle}. Leave it out there "
            f"(torch.autocast({device.type!r}, enabled=False)), or load the model with that weight_dtype."
        )
    return Autocast(dtype=_AUTOCAST[dtype], caches=torch.is_autocast_cache_enabled(), gradients=_gradients())


def _gradients() -> Literal["on", "off", "inference"]:
    if torch.is_inference_mode_enabled():
        return "inference"
    return "on" if torch.is_grad_enabled() else "off"
