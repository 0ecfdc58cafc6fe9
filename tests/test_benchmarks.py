"""The benchmarks' own workers answer as a worker's backends do: they are run too seldom to notice otherwise."""

from __future__ import annotations

import inspect
import subprocess
import sys
from pathlib import Path

import pytest
from tests.support.process import environment

from comfy_gpu_offload.backends.base import Backend

_BENCHMARKS = Path(__file__).parents[1] / "benchmarks"


@pytest.mark.parametrize(
    ("module", "name"),
    [("echo_worker", "EchoBackend"), ("mosaic", "MosaicBackend"), ("digits_worker", "LastBitBackend")],
)
@pytest.mark.parametrize("method", ["forward", "sample"])
def test_a_backend_takes_what_a_handler_gives(
    monkeypatch: pytest.MonkeyPatch, module: str, name: str, method: str
) -> None:
    monkeypatch.syspath_prepend(str(_BENCHMARKS))
    backend = getattr(__import__(module), name)
    wanted, taken = (inspect.signature(getattr(kind, method)).parameters for kind in (Backend, backend))
    assert list(taken) == list(wanted)


def test_a_benchmark_runs_to_its_table() -> None:
    command = [sys.executable, _BENCHMARKS / "call_overhead.py", "--calls", "2"]
    done = subprocess.run(command, env=environment(), capture_output=True, text=True, timeout=120, check=False)
    assert "| 512 KB |" in done.stdout, done.stderr[-2000:]
