"""The part of torch's state around a call that decides what a model computes; docs/protocol.md, "Torch's state"."""

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
    """Refuse a default dtype with which the model would create tensors of another dtype than at the worker.

    Raises:
        UnsupportedStateError: torch's default dtype is not float32.
    """
    dtype = torch.get_default_dtype()
    if dtype is not torch.float32:
        raise UnsupportedStateError(
            f"torch's default dtype is {dtype} here, and float32 at the worker. Call the model with "
            "torch.set_default_dtype(torch.float32), and give it tensors of the dtype that you want."
        )


def autocast_on(device: torch.device, obstacle: str | None = None) -> Autocast | None:
    """Return the state of `torch.autocast` for tensors on `device`, or None if it is off.

    Args:
        device: of the call's tensors.
        obstacle: the reason why it cannot be sent with the call; None if it can.

    Raises:
        UnsupportedStateError: it is on, and cannot be sent with the call.
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
