"""The arithmetic of prediction: the same bits come back, whatever the basis."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from comfy_gpu_offload.io.buffers import tensor_bytes
from comfy_gpu_offload.prediction import arithmetic
from comfy_gpu_offload.prediction.arithmetic import Column

DTYPES = {"BF16": torch.bfloat16, "F16": torch.float16, "F32": torch.float32}


def column(tensor: torch.Tensor, dtype: str) -> Column:
    return arithmetic.column(tensor_bytes(tensor.to(DTYPES[dtype])), dtype)


def restored(target: Column, basis: list[Column]) -> np.ndarray:
    coefficients = arithmetic.fit(target, basis).coefficients
    predicted = arithmetic.predict(basis, coefficients)
    payload = memoryview(bytes(arithmetic.encode(target, predicted)))
    return arithmetic.decode(payload, target.dtype, predicted).words


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


@pytest.mark.parametrize("dtype", ["BF16", "F16"])
@pytest.mark.parametrize("far", [0.0, 1e-3, 0.5, 1e30])
def test_a_state_is_the_prediction_moved_as_little_as_what_was_received_asks_for(dtype: str, far: float) -> None:
    every = Column(np.arange(2**16, dtype=np.uint16), dtype)
    values = every.values(slice(None))
    with np.errstate(all="ignore"):
        predicted = values * (1 + far * np.random.default_rng(0).standard_normal(values.size).astype(np.float32))
    predicted[~np.isfinite(predicted)] = 0
    state = arithmetic.state(every, predicted)
    found = state.values(slice(None))
    assert np.isfinite(found).all()
    assert np.array_equal(arithmetic.state(every, found).words, state.words)
    # Beyond, the sum of two neighbours is none in float32: no sampler's state.
    usual = np.abs(values) < 1e38
    rounds_so = column(torch.from_numpy(predicted), dtype).words == every.words
    assert np.array_equal(found[rounds_so & usual], predicted[rounds_so & usual])
    with np.errstate(all="ignore"):
        assert (np.abs(found - predicted) <= np.abs(values - predicted))[usual].all()
    if far == 0.5:
        assert (found != predicted)[usual & (values != 0)].any()
