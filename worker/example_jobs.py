"""Writes the jobs that a deployment is tried with, as frames of this protocol: `python -m worker.example_jobs`.

test_input.json       what the SDK runs when it finds no RunPod around it
.runpod/tests.json    what RunPod's Hub runs after each release
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
    """A job's input that asks who is there, and with `model` to load it."""
    hello = Hello(
        client="test-input",
        package="test-input",
        torch="",
        codecs=(codecs.RAW.name,),
        model=None if model is None else ModelRef(name=model),
    )
    return {"frame": base64.b64encode(seal(hello).joined()).decode("ascii")}


def files() -> dict[Path, dict[str, Any]]:
    """The contents of both files, by path. The Hub's tests take the bundled model: there is no volume there."""
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
    """Writes the files anew, after a change of the protocol."""
    for path, content in files().items():
        path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
