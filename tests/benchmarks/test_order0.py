from __future__ import annotations

import pytest
import torch


def test_each_field_counts_what_it_varies() -> None:
    from order0 import bound_bytes

    # Of bfloat16: one exponent and two mantissas, alike often, so 1 bit of mantissa; and the sign.
    assert bound_bytes([torch.tensor([1.0, 1.5] * 64).bfloat16()]) == pytest.approx(128 * 2 / 8)
    # Four exponents, no mantissa.
    assert bound_bytes([torch.tensor([1.0, 2.0, 4.0, 8.0] * 64).half()]) == pytest.approx(256 * 3 / 8)
    # Beyond ten bits float32's mantissa is taken to be noise.
    assert bound_bytes([torch.ones(8)]) == pytest.approx(8 * 14 / 8)


def test_tensors_of_other_kinds_have_none() -> None:
    from order0 import bound_bytes

    assert bound_bytes([torch.ones(8), torch.arange(8)]) is None
