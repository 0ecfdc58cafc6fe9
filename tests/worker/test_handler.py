"""`worker/handler.py` under RunPod's SDK, where that is installed."""

from __future__ import annotations

import ast
import base64
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from tests.support.frames import forward_frame
from tests.worker.processes import ROOT, SDK_PYTHON, settings
from worker.handler import log_level

from comfy_gpu_offload.protocol.envelope import open_frame
from comfy_gpu_offload.protocol.messages import Welcome

HANDLER = ROOT / "worker" / "handler.py"
needs_sdk = pytest.mark.skipif(not SDK_PYTHON.is_file(), reason=f"no RunPod SDK: {SDK_PYTHON} is missing")


def run(tmp_path: Path, *arguments: str, python: str = str(SDK_PYTHON), **given: str) -> tuple[int, str]:
    """(exit status, everything it printed) of a local run of the handler."""
    done = subprocess.run(
        [python, str(HANDLER), *arguments],
        env=settings(**given),
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=120,
        check=False,
    )
    return done.returncode, done.stdout


@needs_sdk
def test_it_answers_the_test_input_that_ships_with_it(tmp_path: Path) -> None:
    (tmp_path / "test_input.json").write_bytes((ROOT / "worker" / "test_input.json").read_bytes())
    status, printed = run(tmp_path, COMFY_GPU_OFFLOAD_PRELOAD="digits")
    assert status == 0, printed
    found = re.search(r"Job result: (\{.*\})", printed)
    assert found is not None, printed
    output = ast.literal_eval(found[1])["output"]
    answer = open_frame(base64.b64decode(output["frame"], validate=True)).message
    assert isinstance(answer, Welcome)
    assert [entry.name for entry in answer.models] == ["digits"]
    assert "Local testing complete" in printed


@needs_sdk
def test_a_job_that_is_refused_fails_with_the_error_as_text(tmp_path: Path) -> None:
    status, printed = run(tmp_path, "--test_input", json.dumps({"input": {"frame": "not base64!"}}))
    assert status == 1
    found = re.search(r"failed with error: (\{.*\})", printed)
    assert found is not None, printed
    assert json.loads(found[1])["code"] == "bad_message"
    assert "Traceback" not in printed


@needs_sdk
@pytest.mark.parametrize("arguments", [(), ("--rp_log_level", "DEBUG")])
def test_the_sdks_log_holds_no_job_even_where_debug_is_asked_for(
    tmp_path: Path, arguments: tuple[str, ...]
) -> None:
    text = base64.b64encode(forward_frame(torch.full((64,), 7.25), model="digits").joined()).decode("ascii")
    job = json.dumps({"input": {"frame": text}})
    status, printed = run(tmp_path, *arguments, "--test_input", job, RUNPOD_LOG_LEVEL="DEBUG")
    assert status == 1, printed
    assert "model_changed" in printed
    assert "DEBUG" not in printed
    for piece in (text[:24], text[-24:], text[len(text) // 2 :][:24]):
        assert piece not in printed


@pytest.mark.parametrize(
    ("asked", "level"),
    [
        (None, "INFO"),
        ("", "INFO"),
        ("TRACE", "INFO"),
        ("debug", "INFO"),
        ("nonsense", "INFO"),
        ("INFO", "INFO"),
        ("warn", "WARN"),
        ("ERROR", "ERROR"),
        ("NOTSET", "NOTSET"),
    ],
)
def test_the_sdks_log_level_never_shows_frames(asked: str | None, level: str) -> None:
    assert log_level(asked) == level


def test_importing_it_starts_nothing_and_needs_no_sdk(tmp_path: Path) -> None:
    """Import it as `handler` from its own folder, and as a part of the package."""
    code = "import sys, handler; print(callable(handler.main), 'runpod' in sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", code],
        env=settings(PYTHONPATH=f"{ROOT / 'src'}{os.pathsep}{HANDLER.parent}"),
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert done.stdout.split() == ["True", "False"]


def test_without_the_sdk_it_says_what_to_install(tmp_path: Path) -> None:
    status, printed = run(tmp_path, python=sys.executable)
    assert status == 2
    assert "worker/requirements.txt" in printed
    assert "Traceback" not in printed


def test_a_wrong_setting_ends_it_before_anything_is_loaded(tmp_path: Path) -> None:
    status, printed = run(tmp_path, python=sys.executable, COMFY_GPU_OFFLOAD_CONCURRENCY="none")
    assert status == 2
    assert "COMFY_GPU_OFFLOAD_CONCURRENCY" in printed
    assert "Traceback" not in printed
