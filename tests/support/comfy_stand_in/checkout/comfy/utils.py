"""ComfyUI's helpers for weights and pictures."""

from typing import Any

import torch
from safetensors.torch import load_file


def load_torch_file(ckpt: str, safe_load: bool = False, device: Any = None) -> dict[str, torch.Tensor]:
    """Return a file's tensors."""
    return load_file(ckpt)


def swap_scale_shift(weight: torch.Tensor) -> torch.Tensor:
    """Swap the halves of a weight."""
    shift, scale = weight.chunk(2, dim=0)
    return torch.cat([scale, shift], dim=0)


def common_upscale(samples: torch.Tensor, width: int, height: int, upscale_method: str, crop: str) -> torch.Tensor:
    """Return pictures `[N, C, H, W]` in another size."""
    return torch.nn.functional.interpolate(samples, size=(height, width), mode="nearest-exact")


def get_attr(obj: Any, attr: str) -> Any:
    """Return what lies at a dotted path."""
    for name in attr.split("."):
        obj = getattr(obj, name)
    return obj


def copy_to_param(obj: Any, attr: str, value: torch.Tensor) -> None:
    """Write a weight's values in place."""
    get_attr(obj, attr).data.copy_(value)


def set_attr(obj: Any, attr: str, value: Any) -> None:
    """Put an object at a dotted path."""
    path, _, name = attr.rpartition(".")
    setattr(get_attr(obj, path) if path else obj, name, value)


def set_attr_param(obj: Any, attr: str, value: torch.Tensor) -> None:
    """Put another tensor in a weight's place."""
    path, _, name = attr.rpartition(".")
    setattr(get_attr(obj, path) if path else obj, name, torch.nn.Parameter(value, requires_grad=False))


class ProgressBar:
    """A node's progress bar. All that were made are in `bars`, with what each showed in `shown`."""

    bars: "list[ProgressBar]" = []  # noqa: RUF012

    def __init__(self, total: int) -> None:
        self.total = total
        self.shown: list[tuple[int, int | None, Any]] = []
        ProgressBar.bars.append(self)

    def update_absolute(self, value: int, total: int | None = None, preview: Any = None) -> None:
        """Show a step."""
        self.shown.append((value, total, preview))
