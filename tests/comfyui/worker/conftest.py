"""A comfyui backend on the stand-in for ComfyUI."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from tests.support.comfy_stand_in.fixtures import StandIn


@pytest.fixture
def new_backend(comfy_stand_in: StandIn) -> Callable[..., Any]:
    """Give what makes a backend with further settings."""
    from comfy_gpu_offload.comfyui.worker.backend import ComfyUIBackend

    return lambda **settings: ComfyUIBackend(comfy_stand_in.root, cpu=True, **settings)


@pytest.fixture
def backend(new_backend: Callable[..., Any]) -> Any:
    return new_backend()
