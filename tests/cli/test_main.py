"""The entry point of all commands."""

from __future__ import annotations

import threading
from time import sleep

import pytest

from comfy_gpu_offload.cli.main import main


def test_threads_that_end_soon_have_ended_when_a_command_has(capsys: pytest.CaptureFixture[str]) -> None:
    thread = threading.Thread(target=sleep, args=(0.2,), name="comfy-gpu-offload-probe", daemon=True)
    thread.start()
    assert main(["fetch", "nonsense"]) != 0
    assert not thread.is_alive()
    assert "nonsense" in capsys.readouterr().err


def test_no_command_waits_long_for_a_thread() -> None:
    ends = threading.Event()
    thread = threading.Thread(target=ends.wait, name="comfy-gpu-offload-stuck", daemon=True)
    thread.start()
    assert main(["fetch", "nonsense"]) != 0
    assert thread.is_alive()
    ends.set()
