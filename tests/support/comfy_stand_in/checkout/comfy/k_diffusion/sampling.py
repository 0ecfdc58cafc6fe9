"""ComfyUI's samplers, which `comfy.samplers` finds by their names."""

from typing import Any


def sample_euler(model: Any, x: Any, sigmas: Any) -> Any:
    """Sample."""


def sample_euler_ancestral(model: Any, x: Any, sigmas: Any) -> Any:
    """Sample with new noise at each step."""
