"""A file is what its name says, or it is refused, by its beginning where that tells."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.support.model_files import PAGE, PICKLE, ZIP, gguf_file, safetensors_file, safetensors_of

from comfy_gpu_offload.server.model_store.file_formats import BEGINNING, wrong_beginning, wrong_file

ONE = {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}


@pytest.mark.parametrize(("data", "suffix"), [(safetensors_file(), ".safetensors"), (gguf_file(), ".gguf")])
def test_a_model_is_taken(data: bytes, suffix: str, tmp_path: Path) -> None:
    file = tmp_path / "x.part"
    file.write_bytes(data)
    assert wrong_beginning(data[:BEGINNING], suffix, len(data)) is None
    assert wrong_file(file, suffix) is None


@pytest.mark.parametrize(
    ("data", "suffix", "words"),
    [
        (PAGE, ".safetensors", "web page"),
        (PAGE, ".gguf", "web page"),
        (PICKLE, ".safetensors", "pickle"),
        (ZIP, ".safetensors", "pickle"),
        (PICKLE, ".gguf", "no GGUF"),
        (safetensors_file(), ".gguf", "no GGUF"),
        (gguf_file(), ".safetensors", "GGUF"),
        (gguf_file(version=9), ".gguf", "version 9"),
        (gguf_file(tensors=2**60), ".gguf", "counts"),
        (b'{"error": "Access to model is restricted"}', ".safetensors", "error message"),
        (bytes(4096), ".safetensors", "zeros"),
        (b"abc", ".safetensors", "no safetensors"),
        (b"", ".safetensors", "no safetensors"),
        (b"", ".gguf", "no GGUF"),
        ((2**40).to_bytes(8, "little") + b"{}", ".safetensors", "no safetensors"),
        ((5000).to_bytes(8, "little") + b"{}" + bytes(2000), ".safetensors", "5000 bytes"),
        (safetensors_of(b"[1, 2]", b""), ".safetensors", "header"),
    ],
)
def test_another_file_is_known_by_its_beginning(data: bytes, suffix: str, words: str) -> None:
    wrong = wrong_beginning(data[:BEGINNING], suffix, len(data))
    assert wrong is not None
    assert words in wrong


@pytest.mark.parametrize(
    "data",
    [
        safetensors_of({"a": ONE}, bytes(7)),
        safetensors_of({"a": ONE}, bytes(9)),
        safetensors_of({"a": {**ONE, "data_offsets": [1, 9]}}, bytes(9)),
        safetensors_of({"a": ONE, "b": ONE}, bytes(8)),
        safetensors_of({"a": {**ONE, "shape": [2**62, 2**62]}}, bytes(8)),
        safetensors_of({"a": {**ONE, "dtype": "OBJECT"}}, bytes(8)),
        safetensors_of(b'{"a":' * 5000, b""),
        safetensors_of(b"{" + b"\xff" * 90, b""),
    ],
)
def test_a_header_has_to_fit_the_file(data: bytes, tmp_path: Path) -> None:
    file = tmp_path / "x.part"
    file.write_bytes(data)
    assert "no whole safetensors file" in (wrong_file(file, ".safetensors") or "")
