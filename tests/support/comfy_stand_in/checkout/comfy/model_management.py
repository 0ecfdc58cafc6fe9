"""ComfyUI's memory management, which writes down what it is asked for in `placed` and `emptied`."""

from typing import Any

import torch

CPU = torch.device("cpu")
# Of each call of `load_models_gpu` the patchers and the bytes asked for besides.
placed: list[tuple[list[Any], int]] = []
emptied: list[str] = []
current_loaded_models: list[Any] = []
# Raised by the next call of `load_models_gpu`, where it is set.
failures: list[BaseException] = []


class InterruptProcessingException(Exception):  # noqa: N818  # ComfyUI's name
    """The user cancelled."""


def forget() -> None:
    """Begin anew: no model is on the device. Not in ComfyUI."""
    for recorded in (placed, emptied, current_loaded_models, failures):
        recorded.clear()


def get_torch_device() -> torch.device:
    """Return the device of the models."""
    return CPU


intermediate_device = unet_offload_device = vae_offload_device = text_encoder_device = get_torch_device


def load_models_gpu(models: list[Any], memory_required: int = 0, **_: Any) -> None:
    """Put weights, with their patches, on the device."""
    if failures:
        raise failures.pop()
    placed.append((list(models), memory_required))
    for patcher in models:
        patcher.patch_model(patcher.load_device)
        if patcher not in current_loaded_models:
            current_loaded_models.append(patcher)


def loaded_models(only_currently_used: bool = False) -> list[Any]:
    """Return what is on the device."""
    return list(current_loaded_models)


def soft_empty_cache(force: bool = False) -> None:
    """Give cached memory back."""
    emptied.append("cache")


def throw_exception_if_processing_interrupted() -> None:
    """Raise where the user cancelled."""


def should_use_fp16(device: Any = None, **_: Any) -> bool:
    """Return whether the device computes in half precision."""
    return False


def should_use_bf16(device: Any = None, **_: Any) -> bool:
    """Return whether the device computes in bfloat16."""
    return False


def cast_to_device(tensor: Any, device: Any, dtype: Any, copy: bool = False) -> Any:
    """Return the tensor on that device, in that dtype."""
    return tensor.to(device, dtype, copy=copy)
