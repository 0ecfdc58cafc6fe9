"""The origin of a file is known as long as it is that file."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from comfy_gpu_offload.server.model_store import provenance
from comfy_gpu_offload.server.model_store.provenance import Origin, origin_of, public_source, record

ORIGIN = Origin("ab" * 32, 3, "hf:org/name/x.safetensors@main")


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "x.safetensors"
    path.write_bytes(b"abc")
    return path


def test_an_origin_is_read_back_and_forgotten(file: Path) -> None:
    record(file, ORIGIN)
    assert origin_of(file) == ORIGIN
    provenance.forget(file)
    provenance.forget(file)
    assert origin_of(file) is None


def test_a_changed_file_has_no_origin(file: Path) -> None:
    record(file, ORIGIN)
    os.utime(file, ns=(1, 1))
    assert origin_of(file) is None
    file.unlink()
    assert origin_of(file) is None


@pytest.mark.parametrize(
    "text", ["", "[]", "{", "null", '{"sha256": 1}', "[" * 9000, '{"size_bytes": 3, "mtime_ns": 1, "sha256": "x"}']
)
def test_a_damaged_record_is_none(file: Path, text: str) -> None:
    record(file, ORIGIN)
    (written,) = (file.parent / provenance.FOLDER).iterdir()
    written.write_text(text, "utf-8")
    assert origin_of(file) is None


def test_a_record_holds_no_secret(file: Path) -> None:
    record(file, Origin("ab" * 32, 3, "https://me:secret@civitai.com/api/download/1?token=secret#secret"))
    (written,) = (file.parent / provenance.FOLDER).iterdir()
    assert "secret" not in written.read_text("utf-8")
    assert origin_of(file) == Origin("ab" * 32, 3, "https://civitai.com/api/download/1")


def test_sources_without_an_address_stay() -> None:
    assert public_source("civitai:128713") == "civitai:128713"


def test_a_folder_that_cannot_be_written_to_loses_the_record_alone(
    file: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (file.parent / provenance.FOLDER).write_bytes(b"")
    record(file, ORIGIN)
    assert "not recorded" in caplog.text
    assert origin_of(file) is None
