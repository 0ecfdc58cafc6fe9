from __future__ import annotations

import pytest
import torch

from comfy_gpu_offload.io import codecs
from comfy_gpu_offload.io.codecs.int4_block import Int4Block


def test_a_lossless_row_is_compared_with_the_bound_and_a_lossy_one_has_an_error() -> None:
    from codec_cases import Case
    from codec_measure import by_codec

    case = Case("generated", "zeros and ones", [torch.tensor([0.0, 1.0] * 4096).bfloat16().view(1, 64, 128)])
    row = by_codec(case, codecs.PLANES, 1024.0, 1)
    assert (row.tensor_bytes, row.relative_l2, row.max_error) == (16384, 0, 0)
    assert row.of_bound == 1024 / row.stored_bytes
    noise = Case("generated", "noise", [torch.randn(1, 64, 128)])
    lossy = by_codec(noise, Int4Block(), 1024.0, 1)
    assert lossy.of_bound is None
    assert 0.05 < lossy.relative_l2 < 0.2
    assert lossy.max_error > 0


def test_a_lossless_codec_that_loses_something_ends_the_run() -> None:
    from codec_cases import Case
    from codec_measure import by_codec

    class Broken(Int4Block):
        lossless = True
        name = "broken"

    with pytest.raises(SystemExit, match="broken"):
        by_codec(Case("generated", "noise", [torch.randn(1, 64, 128)]), Broken(), None, 1)
