"""The description of a model file: what of its data is sent, and the state dict that a client makes of it."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from comfy_gpu_offload.comfyui.wire.file_contents import FileContents, LargeTensor, keys_of
from comfy_gpu_offload.errors import MessageError
from comfy_gpu_offload.io import tree
from comfy_gpu_offload.io.digests import digest

WORDS = torch.arange(200_000, dtype=torch.int64).to(torch.uint8)
FILE = {
    "layer.weight": torch.ones(64, 32, dtype=torch.float16),
    "layer.scale_weight": torch.tensor(0.5),
    "layer.comfy_quant": torch.tensor(list(b'{"format": "float8_e4m3fn"}'), dtype=torch.uint8),
    "layer.quantised": torch.ones(64, 32, dtype=torch.uint8),
    "spiece_model": WORDS,
}


def sent(contents: FileContents) -> Any:
    """Return what arrives of a description."""
    packed = tree.pack(contents.tree(), "details")
    return tree.unpack(packed.skeleton, packed.tensors)


def fetch(wanted: LargeTensor) -> torch.Tensor:
    assert wanted == LargeTensor(digest(WORDS), len(WORDS))
    return WORDS


def test_weights_are_left_out_and_what_loaders_read_is_not() -> None:
    described = sent(FileContents.of(FILE, {"format": "pt"}))
    assert list(described["data"]) == ["layer.scale_weight", "layer.comfy_quant", "spiece_model"]
    made = FileContents.read(described)
    assert made.metadata == {"format": "pt"}
    found = made.state_dict(fetch)
    assert {key: (tensor.shape, tensor.dtype) for key, tensor in found.items()} == {
        key: (tensor.shape, tensor.dtype) for key, tensor in FILE.items()
    }
    assert found["layer.weight"].is_meta
    assert found["layer.quantised"].is_meta
    assert all(torch.equal(found[key], FILE[key]) for key in described["data"])


def test_data_is_not_the_files_own_memory() -> None:
    file = {"scale": torch.tensor(1.0)}
    described = FileContents.of(file, None)
    file["scale"].fill_(2.0)
    assert float(described.state_dict(fetch)["scale"]) == 1.0


def test_keys_are_read_from_either_form_of_a_description() -> None:
    assert keys_of({"keys": {"a": 1}}) == ["a"]
    assert keys_of({"files": [sent(FileContents.of(FILE, None)), sent(FileContents.of({"b": WORDS}, None))]}) == [
        *FILE,
        "b",
    ]


@pytest.mark.parametrize(
    "change",
    [
        {"more": 1},
        {"keys": {"a": ((1,), "float16")}},
        {"keys": {"a": ((-1,), torch.float16)}},
        {"keys": {"a": ((1,) * 9, torch.float16)}},
        {"keys": {3: ((1,), torch.float16)}},
        {"metadata": {"a": 3}},
        {"metadata": None},
        {"data": {"elsewhere": torch.ones(())}},
        {"data": {"layer.scale_weight": torch.ones(2)}},
        {"data": {"layer.scale_weight": "0.5"}},
        {"data": {"spiece_model": {"digest": bytes(31), "bytes": len(WORDS)}}},
        {"data": {"spiece_model": {"digest": bytes(32), "bytes": len(WORDS) + 1}}},
        {"data": {"layer.weight": {"digest": bytes(32), "bytes": 64}}},
    ],
)
def test_a_malformed_description_is_refused(change: dict[str, Any]) -> None:
    with pytest.raises(MessageError, match="the worker's description of a file"):
        FileContents.read(sent(FileContents.of(FILE, {})) | change)


def test_what_is_no_dict_is_refused() -> None:
    with pytest.raises(MessageError):
        FileContents.read([])
