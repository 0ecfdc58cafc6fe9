"""Prediction of tensors from others: the same bits back, whatever the basis."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from comfy_gpu_offload.io import prediction
from comfy_gpu_offload.io.buffers import tensor_bytes
from comfy_gpu_offload.io.prediction import Column

DTYPES = {"BF16": torch.bfloat16, "F16": torch.float16, "F32": torch.float32}


def column(tensor: torch.Tensor, dtype: str) -> Column:
    return prediction.column(tensor_bytes(tensor.to(DTYPES[dtype])), dtype)


def restored(target: Column, basis: list[Column]) -> np.ndarray:
    coefficients = prediction.fit(target, basis).coefficients
    predicted = prediction.predict(basis, coefficients)
    payload = memoryview(bytes(prediction.encode(target, predicted)))
    return prediction.decode(payload, target.dtype, predicted).words


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("basis", ["zeros", "noise", "itself", "not finite", "one of zeros"])
def test_any_basis_gives_the_same_bits_back(dtype: str, basis: str) -> None:
    generator = torch.Generator().manual_seed(1)
    target = torch.randn(3000, generator=generator)
    target[:4] = torch.tensor([float("nan"), float("inf"), -0.0, 1e-40])
    noise = torch.randn(3000, generator=generator)
    columns = {
        "zeros": [torch.zeros(3000), torch.zeros(3000)],
        "noise": [noise],
        "itself": [target, noise],
        "not finite": [torch.full((3000,), float("nan")), torch.full((3000,), float("inf"))],
        "one of zeros": [torch.zeros(3000), noise],
    }[basis]
    wanted = column(target, dtype)
    assert np.array_equal(restored(wanted, [column(each, dtype) for each in columns]), wanted.words)
