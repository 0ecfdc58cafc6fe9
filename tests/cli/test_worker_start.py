"""Errors that keep the `worker` command from starting, told apart."""

from __future__ import annotations

import errno
from pathlib import Path

import pytest
from pydantic import SecretStr

from comfy_gpu_offload.backends.base import Backend
from comfy_gpu_offload.cli.worker_command import serve_process
from comfy_gpu_offload.errors import ConfigError
from comfy_gpu_offload.io.frame import FrameLimits
from comfy_gpu_offload.server.handler import HandlerOptions
from comfy_gpu_offload.server.http.routes import WorkerState
from comfy_gpu_offload.server.http.tokens import Tokens
from comfy_gpu_offload.server.serve import ServeOptions


@pytest.mark.parametrize("number", [errno.EIO, errno.EADDRINUSE, errno.EACCES])
def test_a_backend_that_the_disk_fails_is_not_told_as_a_port(tmp_path: Path, number: int) -> None:
    broken = tmp_path / "models"

    def make() -> Backend:
        raise OSError(number, "the disk failed", str(broken))

    serving = ServeOptions("127.0.0.1", 0, HandlerOptions(), announce=lambda _: None)
    with pytest.raises(ConfigError) as raised:
        serve_process(WorkerState(FrameLimits(), Tokens(SecretStr("t"))), make, serving)
    assert "listen" not in str(raised.value).lower()
    assert str(broken) in str(raised.value)
