"""A worker that listens on an IPv6 address, and clients that reach it there."""

from __future__ import annotations

import socket
from contextlib import closing, suppress
from pathlib import Path

import pytest
import torch
from tests.support.backend import FunctionBackend
from tests.support.connect_proxy import ConnectProxy
from tests.support.process import worker_process
from tests.support.tls import self_signed, server_context
from tests.support.worker import ThreadWorker

from comfy_gpu_offload import connect
from comfy_gpu_offload.cli.main import main
from comfy_gpu_offload.config.address import Address
from comfy_gpu_offload.errors import ConnectError, UnauthorizedError
from comfy_gpu_offload.server.http.server import listen
from comfy_gpu_offload.transport.health import Health, ping


def has_ipv6() -> bool:
    with suppress(OSError), socket.create_server(("::1", 0), family=socket.AF_INET6):
        return True
    return False


pytestmark = pytest.mark.skipif(not has_ipv6(), reason="this machine has no IPv6")
X = torch.arange(6.0)


def test_calls_pass() -> None:
    with ThreadWorker(FunctionBackend(), host="::1") as worker:
        assert worker.url == f"http://[::1]:{worker.port}"
        assert ping(worker.address) is Health.READY
        with connect(worker.url) as session:
            assert torch.equal(session.model("double")(X), X * 2)


def test_all_networks_are_those_of_ipv4_too(caplog: pytest.LogCaptureFixture) -> None:
    with ThreadWorker(FunctionBackend(), host="::", token="wanted") as worker:
        for host in ("127.0.0.1", "[::1]"):
            with connect(f"http://{host}:{worker.port}", "wanted") as session:
                assert torch.equal(session.model("double")(X), X * 2)
            with pytest.raises(UnauthorizedError):
                connect(f"http://{host}:{worker.port}", "wrong")
    peers = {line.split(" from ")[1].split()[0] for line in caplog.messages if "wrong token" in line}
    assert peers == {"127.0.0.1", "::1"}


def test_all_networks_are_those_of_ipv4_alone_where_there_is_no_other(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(socket, "has_dualstack_ipv6", lambda: False)
    with closing(listen("::", 0)) as listener:
        assert listener.family is socket.AF_INET
        with socket.create_connection(("127.0.0.1", listener.getsockname()[1]), timeout=60):
            pass


def test_a_port_of_ipv4_that_is_taken_is_not_shared_by_halves() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken, pytest.raises(OSError, match="in use"):
        listen("::", taken.getsockname()[1]).close()


def test_calls_pass_with_tls(tmp_path: Path) -> None:
    certificate = self_signed(tmp_path, "IP:::1")
    with ThreadWorker(FunctionBackend(), host="::1", tls=server_context(certificate)) as worker:
        assert worker.url.startswith("https://[::1]:")
        with connect(worker.url, ca_file=certificate[0]) as session:
            assert torch.equal(session.model("double")(X), X * 2)


def test_a_proxy_is_asked_for_it_in_brackets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    certificate = self_signed(tmp_path, "IP:2001:db8::7")
    with (
        ThreadWorker(FunctionBackend(), tls=server_context(certificate)) as worker,
        ConnectProxy({"[2001:db8::7]:8288": worker.port}) as proxy,
    ):
        monkeypatch.setenv("HTTPS_PROXY", proxy.url())
        with connect("https://[2001:db8::7]:8288", ca_file=certificate[0]) as session:
            assert session.welcome.backend == "function"


def test_nobody_there_is_named_with_brackets() -> None:
    with socket.create_server(("::1", 0), family=socket.AF_INET6) as taken:
        port = taken.getsockname()[1]
    with pytest.raises(ConnectError, match=rf"No worker answers at http://\[::1\]:{port} "):
        connect(f"http://[::1]:{port}", retry_s=0.1)


def test_the_command_and_the_doctor(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    with worker_process("--backend", "diffusers", "--host", "::1", "--port", "0", cwd=tmp_path) as worker:
        assert Address.parse(worker.url) == Address("http", "::1", worker.port)
        monkeypatch.setenv("COMFY_GPU_OFFLOAD_URL", worker.url)
        assert main(["doctor"]) == 0
        assert "::1 is ::1" in capsys.readouterr().out
        taken = ["worker", "--backend", "diffusers", "--host", "::1", "--port", str(worker.port)]
        assert main(taken) == 2
    assert f"Cannot listen on [::1]:{worker.port}: another program" in capsys.readouterr().err
