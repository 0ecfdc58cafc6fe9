"""UniPC."""

from typing import Any


def sample_unipc(model: Any, noise: Any, sigmas: Any) -> Any:
    """Sample."""


def sample_unipc_bh2(model: Any, noise: Any, sigmas: Any) -> Any:
    """Sample in the other variant."""
