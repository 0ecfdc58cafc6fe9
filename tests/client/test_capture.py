from __future__ import annotations

import logging
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file
from tests.support.backend import FunctionBackend
from tests.support.worker import ThreadWorker

from comfy_gpu_offload import connect
from comfy_gpu_offload.errors import ConfigError

X = torch.randn(2, 4, 8, 8).bfloat16()


@pytest.fixture(scope="module")
def worker() -> Iterator[ThreadWorker]:
    backend = FunctionBackend()
    backend.functions["twice"] = lambda x, sigma, **kwargs: {"out": x * 2}
    with ThreadWorker(backend) as made:
        yield made


def test_each_call_leaves_its_inputs_and_outputs_as_they_travelled(worker: ThreadWorker, tmp_path: Path) -> None:
    folder = tmp_path / "runs" / "captured"
    context = torch.randn(2, 7, 16)
    with connect(worker.url, capture_dir=folder) as session:
        model = session.model("twice")
        for step in range(3):
            model(X + step, torch.tensor([1.0]), c=[context, context[:, :3], "a prompt"])
    files = sorted(folder.iterdir())
    assert len(files) == 3
    for step, file in enumerate(files):
        tensors = load_file(file)
        assert tensors.keys() == {"args[0]", "args[1]", "kwargs['c'][0]", "kwargs['c'][1]", "result['out']"}
        assert torch.equal(tensors["args[0]"], X + step)
        assert tensors["args[0]"].dtype is torch.bfloat16
        assert torch.equal(tensors["kwargs['c'][1]"], context[:, :3])
        assert torch.equal(tensors["result['out']"], (X + step) * 2)
        with safe_open(file, "pt") as opened:
            assert opened.metadata() == {"comfy-gpu-offload": str(step + 1)}


def test_only_this_user_can_read_what_is_left(worker: ThreadWorker, tmp_path: Path) -> None:
    folder = tmp_path / "captured"
    with connect(worker.url, capture_dir=folder) as session:
        session.model("twice")(X, X)
    (file,) = folder.iterdir()
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert stat.S_IMODE(file.stat().st_mode) == 0o600


def test_it_stops_at_the_limit_over_all_sessions_and_says_so_once(
    worker: ThreadWorker, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    limit = 8 * X.nbytes
    for _ in range(2):
        with connect(worker.url, capture_dir=tmp_path, capture_bytes=limit) as session:
            caplog.clear()
            for _ in range(4):
                session.model("twice")(X, torch.tensor([1.0]))
    assert 0 < sum(file.stat().st_size for file in tmp_path.iterdir()) <= limit + 1000
    assert [record.levelno for record in caplog.records if "No more" in record.message] == [logging.WARNING]


def test_a_folder_that_cannot_be_written_fails_no_call_and_is_told_of_once(
    worker: ThreadWorker, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = tmp_path / "captured"
    with connect(worker.url, capture_dir=folder) as session:
        folder.rmdir()
        folder.write_text("")
        for _ in range(2):
            assert torch.equal(session.model("twice")(X, X)["out"], X * 2)
    assert sum("No more" in record.message for record in caplog.records) == 1


def test_a_folder_that_can_never_be_written_is_refused_before_any_call(
    worker: ThreadWorker, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match=r"COMFY_GPU_OFFLOAD_CAPTURE_DIR is .*/runs, and nothing can be written"):
        connect(worker.url, capture_dir=tmp_path / "file" / "runs")


def test_nothing_is_left_without_the_setting(
    worker: ThreadWorker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with connect(worker.url) as session:
        session.model("twice")(X, X)
    assert not list(tmp_path.iterdir())
