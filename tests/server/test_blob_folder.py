from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest
import torch

from comfy_gpu_offload.io.digests import digest
from comfy_gpu_offload.server.blob_folder import BlobFolder, upload_folder

BUDGET = 1 << 20


def put(folder: BlobFolder, tensor: torch.Tensor) -> bytes:
    name = digest(tensor)
    folder.put(name, tensor)
    return name


def test_what_was_put_outlives_the_folder_object(tmp_path: Path) -> None:
    given = torch.arange(12, dtype=torch.bfloat16).view(3, 4)
    name = put(BlobFolder(tmp_path / "uploads", BUDGET), given)
    found = BlobFolder(tmp_path / "uploads", BUDGET).get(name)
    assert found is not None
    assert found.dtype == torch.bfloat16
    assert torch.equal(found, given)


@pytest.mark.skipif(os.name != "posix", reason="modes are POSIX's")
def test_only_this_user_can_read_it(tmp_path: Path) -> None:
    put(BlobFolder(tmp_path / "uploads", BUDGET), torch.ones(4))
    (file,) = (tmp_path / "uploads").iterdir()
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert stat.S_IMODE(file.parent.stat().st_mode) == 0o700


@pytest.mark.parametrize("damage", [lambda data: data[:-1], lambda data: b"", lambda data: data[:-1] + b"\xff"])
def test_a_damaged_file_is_not_given_and_is_removed(tmp_path: Path, damage: object) -> None:
    folder = BlobFolder(tmp_path, BUDGET)
    name = put(folder, torch.ones(64))
    (file,) = tmp_path.iterdir()
    file.write_bytes(damage(file.read_bytes()))  # type: ignore[operator]
    assert folder.get(name) is None
    assert not file.exists()


def test_what_a_crash_left_of_a_file_is_removed_and_what_another_worker_writes_is_not(tmp_path: Path) -> None:
    left, under_way = tmp_path / "0123.part", tmp_path / "4567.part"
    for file in (left, under_way):
        file.write_bytes(bytes(10))
    os.utime(left, (0, 0))
    put(BlobFolder(tmp_path, BUDGET), torch.ones(64))
    assert not left.exists()
    assert under_way.exists()


def test_a_tensor_under_anothers_name_is_not_given(tmp_path: Path) -> None:
    folder = BlobFolder(tmp_path, BUDGET)
    put(folder, torch.ones(64))
    (file,) = tmp_path.iterdir()
    wanted = digest(torch.zeros(64))
    file.rename(tmp_path / f"{wanted.hex()}.frame")
    assert folder.get(wanted) is None


def test_the_ones_not_used_for_longest_leave_first(tmp_path: Path) -> None:
    size = 64 * 1024
    folder = BlobFolder(tmp_path, 3 * (size + 1024))
    tensors = [torch.full((size // 4,), float(number)) for number in range(4)]
    names = [put(folder, tensor) for tensor in tensors[:3]]
    for age, name in enumerate(names):
        os.utime(tmp_path / f"{name.hex()}.frame", (1000 + age, 1000 + age))
    assert folder.get(names[0]) is not None  # now the most recently used
    names.append(put(folder, tensors[3]))
    kept = [folder.get(name) is not None for name in names]
    assert kept == [True, False, True, True]


def test_one_that_is_larger_than_the_budget_is_not_kept(tmp_path: Path) -> None:
    folder = BlobFolder(tmp_path, 1024)
    assert folder.get(put(folder, torch.zeros(1024))) is None
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_cannot_be_written_keeps_nothing_and_fails_nothing(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").write_text("")
    folder = BlobFolder(tmp_path / "file" / "uploads", BUDGET)
    assert folder.get(put(folder, torch.ones(4))) is None
    assert "is kept in memory only" in caplog.text


def test_no_bytes_no_folder(tmp_path: Path) -> None:
    assert upload_folder(tmp_path, 0) is None
    assert upload_folder(None, 1) is not None
