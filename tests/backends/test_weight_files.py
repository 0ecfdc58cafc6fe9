"""Damaged files of weights, by themselves and through a worker."""

from __future__ import annotations

import io
import shutil
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from tests.support.process import worker_process

from comfy_gpu_offload import connect
from comfy_gpu_offload.backends.base import ModelFileError
from comfy_gpu_offload.backends.weight_files import check_weight_file
from comfy_gpu_offload.digits.model import WEIGHTS
from comfy_gpu_offload.errors import ModelFailedError

LFS = b"version https://git-lfs.github.com/spec/v1\noid sha256:" + b"4d" * 32 + b"\nsize 12345\n"

Damage = Callable[[bytes], bytes]
DAMAGES: dict[str, tuple[Damage, str]] = {
    "empty": (lambda _: b"", "is empty"),
    "html": (lambda _: b"\n<!DOCTYPE html><html><title>Log in</title>", "is a web page"),
    "lfs": (lambda _: LFS, "git lfs pull"),
    "zeros": (lambda whole: bytes(len(whole)), "begins with zeros"),
    "cut in its data": (lambda whole: whole[: len(whole) // 2], "is cut off"),
    "cut by a byte": (lambda whole: whole[:-1], "is cut off"),
    "cut in its header": (lambda whole: whole[:100], "is cut off"),
    "cut in its length": (lambda whole: whole[:5], "is no safetensors file"),
    "a header far too long": (lambda whole: struct.pack("<Q", 2**60) + whole[8:], "is no safetensors file"),
    "a header too short": (lambda whole: struct.pack("<Q", 40) + whole[8:], "its header cannot be read"),
    "an error message": (lambda _: b'{"error":"Invalid username or password."}', "error message"),
    "a pickle": (lambda _: b"\x80\x02}q\x00.", "rename it to .ckpt"),
}


@pytest.fixture
def whole() -> bytes:
    return WEIGHTS.read_bytes()


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_file_is_named_with_what_it_is(tmp_path: Path, whole: bytes, damage: str) -> None:
    spoil, says = DAMAGES[damage]
    file = tmp_path / "model.safetensors"
    file.write_bytes(spoil(whole))
    with pytest.raises(ModelFileError, match=says) as raised:
        check_weight_file(file)
    assert str(file) in str(raised.value)


@pytest.mark.parametrize("sign", [b"\x80\x02", b"\x20\x80\x02"])
def test_a_header_of_a_length_that_another_kind_of_file_begins_with_is_read(tmp_path: Path, sign: bytes) -> None:
    length = sign.ljust(8, b"\0")
    file = tmp_path / "model.safetensors"
    file.write_bytes(
        length
        + b'{"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]}}'.ljust(int.from_bytes(length, "little"))
        + b"1"
    )
    check_weight_file(file)


def test_whole_files_pass(tmp_path: Path) -> None:
    check_weight_file(WEIGHTS)
    save_file({"a": torch.zeros(100), "empty": torch.zeros(0)}, tmp_path / "zeros.safetensors")
    check_weight_file(tmp_path / "zeros.safetensors")
    save_file({}, tmp_path / "none.safetensors")
    check_weight_file(tmp_path / "none.safetensors")
    torch.save({"a": torch.zeros(3)}, tmp_path / "model.ckpt")
    check_weight_file(tmp_path / "model.ckpt")


def test_a_checkpoint_that_was_cut_off_says_so(tmp_path: Path) -> None:
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w") as archive:
        archive.writestr("archive/data.pkl", bytes(10_000))
    file = tmp_path / "model.ckpt"
    file.write_bytes(made.getvalue()[:5000])
    with pytest.raises(ModelFileError, match="is cut off"):
        check_weight_file(file)


def test_both_ends_of_a_worker_say_what_is_wrong_with_a_file(tmp_path: Path, whole: bytes) -> None:
    for name, (spoil, _) in DAMAGES.items():
        folder = tmp_path / "zoo" / name
        folder.mkdir(parents=True)
        shutil.copy(WEIGHTS.parent / "config.json", folder)
        (folder / WEIGHTS.name).write_bytes(spoil(whole))
    arguments = ("--backend", "diffusers", "--port", "0", "--cpu", "--models", str(tmp_path / "zoo"))
    with worker_process(*arguments, cwd=tmp_path) as worker:
        with connect(worker.url) as session:
            for name, (_, says) in DAMAGES.items():
                with pytest.raises(ModelFailedError, match=says) as raised:
                    session.model(name)
                assert str(tmp_path / "zoo" / name / WEIGHTS.name) in str(raised.value)
            assert session.model("digits").dtype is torch.bfloat16
        worker.terminate()
    log = "".join(worker.log)
    for name, (_, says) in DAMAGES.items():
        assert any(says in line and f"/{name}/" in line for line in log.splitlines()), name
