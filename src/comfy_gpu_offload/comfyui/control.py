"""What a call carries of ControlNets and T2I adapters."""

from __future__ import annotations

import logging
from typing import Any

import comfy.model_management
import torch

from ..server.backends.comfyui_residuals import to_data
from . import status

logger = logging.getLogger(__name__)


def travelling_control(control: Any, dtype: torch.dtype) -> tuple[Any, int]:
    """A call's `control` as it goes to the worker, and the bytes of what was computed here.

    Residuals go as they were computed, since rounding one before it is added makes another sum. Only where this
    machine does not compute in `dtype`, the model's, and so could not give the same anyway, wider ones are rounded.
    """
    return to_data(control, None if _computes_in(dtype) else dtype)


def _computes_in(dtype: torch.dtype) -> bool:
    """Whether ComfyUI computes here in the dtype that the worker's model has."""
    management = comfy.model_management
    device = management.get_torch_device()
    if dtype is torch.float16:
        return bool(management.should_use_fp16(device))
    return dtype is not torch.bfloat16 or bool(management.should_use_bf16(device))


def warn_of_residuals(size_bytes: int) -> None:
    """Tells the user what each step sends of a ControlNet that runs here, in the log and on the node."""
    text = f"A ControlNet or T2I adapter runs here: it adds up to {size_bytes / 1e6:.1f} MB to each step's upload."
    logger.warning("%s", text)
    status.show(text)
