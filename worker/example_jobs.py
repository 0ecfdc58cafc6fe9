"""Example jobs, by which a deployment is tested: `python -m worker.example_jobs` writes them as frames.

test_input.json       the job that RunPod's SDK runs outside of RunPod
.runpod/tests.json    the jobs that RunPod's Hub runs after each release
"""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

from comfy_gpu_offload.io import codecs
from comfy_gpu_offload.protocol.envelope import seal
from comfy_gpu_offload.protocol.messages import Hello, ModelRef

_ROOT = Path(__file__).resolve().parents[1]
_MODEL = "digits"
_FIRST_LOAD_MS = 300_000


def hello_job(model: str | None = None) -> dict[str, str]:
    """Return the input of a job that says hello, and with `model` asks for that model to be loaded."""
    hello = Hello(
        client="test-input",
        package="test-input",
        torch="",
        codecs=(codecs.RAW.name,),
        model=None if model is None else ModelRef(name=model),
    )
    return {"frame": base64.b64encode(seal(hello).joined()).decode("ascii")}


def files() -> dict[Path, dict[str, Any]]:
    """Return the content of both files by path. The Hub has no volume, so its jobs use the bundled model."""
    tests = [
        {"name": "says_hello", "input": hello_job(), "timeout": _FIRST_LOAD_MS},
        {"name": "loads_the_bundled_model", "input": hello_job(_MODEL), "timeout": _FIRST_LOAD_MS},
    ]
    config = {
        "gpuTypeId": "NVIDIA GeForce RTX 4090",
        "gpuCount": 1,
        "env": [
            {"key": "COMFY_GPU_OFFLOAD_SERVE", "value": "queue"},
            {"key": "COMFY_GPU_OFFLOAD_BACKEND", "value": "diffusers"},
        ],
        "allowedCudaVersions": ["13.0", "12.9", "12.8"],
    }
    return {
        _ROOT / "worker" / "test_input.json": {"input": hello_job()},
        _ROOT / ".runpod" / "tests.json": {"tests": tests, "config": config},
    }


def main() -> None:
    """Write both files; needed after each change of the protocol."""
    for path, content in files().items():
        path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
