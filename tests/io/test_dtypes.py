from __future__ import annotations

import safetensors.torch
import torch

from comfy_gpu_offload.io.dtypes import DTYPES, NAMES


def test_every_dtype_that_the_stock_library_loads_is_known_by_its_name() -> None:
    for name, dtype in safetensors.torch._TYPES.items():
        assert DTYPES[name] is dtype


def test_names_are_what_the_stock_library_writes() -> None:
    for dtype, name in NAMES.items():
        document = safetensors.torch.save({"x": torch.empty(4, dtype=dtype)})
        assert f'"dtype":"{name}"'.encode() in document
