"""A place for files that come in."""

from __future__ import annotations

from pathlib import Path

import pytest

from comfy_gpu_offload.server.model_store.placement import Place


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place("checkpoints", "model.safetensors", tmp_path / "checkpoints")
