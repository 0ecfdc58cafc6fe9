"""A predicted tensor on the wire: what is described is what comes back, and nothing else is taken."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from tests.support.histories import seen

from comfy_gpu_offload.errors import CodecError, MessageError
from comfy_gpu_offload.io.buffers import tensor_bytes
from comfy_gpu_offload.prediction.coded_tensor import (
    check_payload_size,
    check_restored,
    coded_tensor,
    payload_of,
    tensor_of,
)
from comfy_gpu_offload.prediction.latent import LatentBytes

X = torch.randn(2, 8, 4, 4, generator=torch.Generator().manual_seed(0)).bfloat16()
COEFFICIENTS = [np.array([1, 2], np.float32), np.array([3], np.float32)]


def test_payloads_are_joined_and_their_sizes_and_coefficients_kept() -> None:
    coded, payload = coded_tensor(seen(X), COEFFICIENTS, [b"one", b"three"])
    assert payload == b"onethree"
    assert coded.sizes == (3, 5)
    assert [np.frombuffer(each, "<f4").tolist() for each in coded.coefficients] == [[1, 2], [3]]
    check_payload_size(coded, memoryview(payload))
    with pytest.raises(CodecError):
        check_payload_size(coded, memoryview(payload)[1:])


def test_a_payload_travels_as_a_tensor_of_bytes_and_comes_back() -> None:
    sent = coded_tensor(seen(X), [], [b"payload"]).tensor
    assert sent.dtype is torch.uint8
    assert payload_of(sent) == b"payload"


@pytest.mark.parametrize(
    "tensor", [torch.zeros(4), torch.zeros(4, dtype=torch.int8), torch.zeros(2, 2, dtype=torch.uint8)], ids=str
)
def test_a_payload_that_is_not_bytes_is_refused(tensor: torch.Tensor) -> None:
    with pytest.raises(MessageError, match="bytes"):
        payload_of(tensor)


@pytest.mark.parametrize("order", [(0, 1, 2, 3), (0, 2, 3, 1), (3, 2, 1, 0)], ids=str)
def test_a_tensor_comes_back_with_its_strides(order: tuple[int, ...]) -> None:
    tensor = X.permute(order)
    coded, _ = coded_tensor(LatentBytes.of(tensor), [], [])
    back = tensor_of(coded, memoryview(bytearray(tensor_bytes(tensor))))
    assert torch.equal(back, tensor)
    assert back.stride() == tensor.stride()


def test_strides_that_no_tensor_of_its_shape_has_are_refused() -> None:
    coded, _ = coded_tensor(seen(X), [], [])
    for strides in [(1, 1, 1), (2**40, 1, 1, 1)]:
        with pytest.raises(CodecError, match="strides"):
            tensor_of(coded.model_copy(update={"strides": strides}), memoryview(bytearray(X.nbytes)))


def test_other_data_than_the_senders_is_noticed() -> None:
    coded, _ = coded_tensor(seen(X), [], [])
    check_restored(coded, tensor_bytes(X))
    with pytest.raises(CodecError, match="another tensor"):
        check_restored(coded, tensor_bytes(-X))
    with pytest.raises(CodecError, match="shape"):
        check_restored(coded, tensor_bytes(X)[:-2])
