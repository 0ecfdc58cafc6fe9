from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from tests.support.backend import FunctionBackend
from tests.support.process import environment
from tests.support.refusing_proxy import RefusingProxy, answer_of
from tests.support.runpod_edge import EdgeLimits, LoadBalancerEdge
from tests.support.runpod_gateway import ENDPOINT, KEY, RunPodGateway
from tests.support.runpod_worker import SdkWorker
from tests.support.tls import self_signed, server_context
from tests.support.worker import ThreadWorker

from comfy_gpu_offload.backends.base import BackendInfo
from comfy_gpu_offload.backends.diffusers.backend import DiffusersBackend
from comfy_gpu_offload.cli.main import main
from comfy_gpu_offload.config.settings import Settings, variable

ROOT = Path(__file__).parents[2]
TOKEN = "a-token-that-nobody-may-see"


@pytest.fixture(autouse=True)
def _nothing_is_set(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in Settings.model_fields:
        monkeypatch.delenv(variable(name), raising=False)


@pytest.fixture
def worker() -> Iterator[ThreadWorker]:
    with ThreadWorker(DiffusersBackend(), token=TOKEN) as made:
        yield made


def lines(output: str) -> dict[str, str]:
    """Return what each check that passed says."""
    rows = [line.split(maxsplit=1)[1] for line in output.splitlines() if line.startswith("  ok  ")]
    return {row[:13].strip(): row[13:].strip() for row in rows}


def test_a_worker_that_works_passes_every_check(
    worker: ThreadWorker, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COMFY_GPU_OFFLOAD_URL", worker.url)
    monkeypatch.setenv("COMFY_GPU_OFFLOAD_TOKEN", TOKEN)
    monkeypatch.setenv("COMFY_GPU_OFFLOAD_GPU_RATE", "0.0003")
    assert main(["doctor"]) == 0
    said = capsys.readouterr()
    checks = lines(said.out)
    assert list(checks) == [
        *("settings", "address", "connection", "worker", "handshake", "carrier"),
        *("models", "round trip", "bandwidth", "forward call", "cost"),
    ]
    assert "Mbit/s up" in checks["bandwidth"]
    assert checks["carrier"] == "WebSocket"
    assert "digits" in checks["forward call"]
    assert "$" in checks["cost"]
    assert TOKEN not in said.out + said.err


def test_a_proxy_that_passes_no_websocket_is_told_with_what_it_costs(
    worker: ThreadWorker, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with RefusingProxy(worker.port) as proxy:
        proxy.answer = answer_of(403)
        monkeypatch.setenv("COMFY_GPU_OFFLOAD_URL", proxy.url)
        monkeypatch.setenv("COMFY_GPU_OFFLOAD_TOKEN", TOKEN)
        assert main(["doctor"]) == 0
    (line,) = [line for line in capsys.readouterr().out.splitlines() if "carrier" in line]
    assert line.startswith("  ??  carrier       single HTTP requests")
    assert "three times" in line
    assert "403" in line


def test_a_wrong_token_is_named(
    worker: ThreadWorker, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COMFY_GPU_OFFLOAD_URL", worker.url)
    monkeypatch.setenv("COMFY_GPU_OFFLOAD_TOKEN", "another")
    assert main(["doctor"]) == 1
    said = capsys.readouterr()
    assert "FAIL  handshake" in said.out
    assert "COMFY_GPU_OFFLOAD_TOKEN" in said.err


@pytest.mark.parametrize(
    ("variables", "status", "failed", "says"),
    [
        ({}, 2, "settings", "No worker is configured"),
        ({"COMFY_GPU_OFFLOAD_URL": "http://192.168.1.7:8288"}, 2, "settings", "ssh -L"),
        ({"COMFY_GPU_OFFLOAD_CA_FILE": "/nowhere.pem"}, 2, "settings", "there is no file"),
        ({"COMFY_GPU_OFFLOAD_URL": "https://nowhere.invalid"}, 1, "address", "is the name right"),
        ({"COMFY_GPU_OFFLOAD_URL": "http://127.0.0.1:9"}, 1, "connection", "Is the worker running"),
        ({"RUNPOD_ENDPOINT_ID": "abc123"}, 2, "settings", "RUNPOD_API_KEY is missing"),
    ],
)
def test_the_first_thing_that_is_wrong_is_named_with_what_to_do(
    variables: dict[str, str],
    status: int,
    failed: str,
    says: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert main(["doctor"]) == status
    said = capsys.readouterr()
    assert f"FAIL  {failed}" in said.out
    assert says in said.err


def test_what_is_passed_over_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / ".env").write_text("COMFY_GPU_OFFLOAD_URL=http://127.0.0.1:9\nCOMFY_GPU_OFFLOAD_TOKENS=1\n")
    monkeypatch.setenv("RUNPOD_ENDPOINT_ID", "abc123")
    assert main(["doctor"]) == 1
    said = capsys.readouterr().out
    assert str(tmp_path / ".env") in lines(said)["settings"]
    assert "URL wins over RUNPOD_ENDPOINT_ID" in said
    assert (
        "COMFY_GPU_OFFLOAD_TOKENS is not a setting and has no effect; did you mean COMFY_GPU_OFFLOAD_TOKEN?" in said
    )


def test_plain_http_where_a_worker_speaks_https_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with ThreadWorker(FunctionBackend(), tls=server_context(self_signed(tmp_path))) as worker:
        monkeypatch.setenv("COMFY_GPU_OFFLOAD_URL", worker.url.replace("https", "http"))
        monkeypatch.setenv("COMFY_GPU_OFFLOAD_RETRY_S", "0.1")
        assert main(["doctor"]) == 1
    assert "write https:// in place of http://" in capsys.readouterr().err


def test_a_model_that_is_not_there_is_named(
    worker: ThreadWorker, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COMFY_GPU_OFFLOAD_URL", worker.url)
    monkeypatch.setenv("COMFY_GPU_OFFLOAD_TOKEN", TOKEN)
    assert main(["doctor", "--model", "flux"]) == 1
    assert "no model 'flux'" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main(["doctor", "--model", "x" * 257])
    assert "1 to 256" in capsys.readouterr().err


def test_a_worker_without_models_is_no_use(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    backend = FunctionBackend()
    backend.functions.clear()
    with ThreadWorker(backend) as empty:
        monkeypatch.setenv("COMFY_GPU_OFFLOAD_URL", empty.url)
        assert main(["doctor"]) == 1
        assert "no models: put one into /srv/models" in capsys.readouterr().err
        assert main(["models"]) == 0
        assert "put one into /srv/models" in capsys.readouterr().out


class OfRelease(DiffusersBackend):
    """A worker whose ComfyUI is of some release."""

    def info(self) -> BackendInfo:
        return replace(super().info(), comfyui="0.33.0")


@pytest.mark.parametrize(
    ("here", "says"),
    [
        ("0.33.0", "ComfyUI 0.33.0, "),
        ("0.3.64", "ComfyUI is 0.3.64 here and 0.33.0 at the worker"),
        (None, "name its folder with --comfyui PATH"),
    ],
)
def test_both_sides_comfyui_is_compared(
    here: str | None, says: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    options = []
    if here is not None:
        (tmp_path / "comfyui_version.py").write_text(f'# generated\n__version__ = "{here}"\n')
        options = ["--comfyui", str(tmp_path)]
    with ThreadWorker(OfRelease()) as worker:
        monkeypatch.setenv("COMFY_GPU_OFFLOAD_URL", worker.url)
        assert main(["doctor", *options]) == 0
    said = capsys.readouterr().out
    assert says in said
    assert ("at the worker: pictures of one seed may differ" in said) is (here == "0.3.64")


def test_the_comfyui_that_the_pack_lies_in_is_found(tmp_path: Path) -> None:
    """A user runs it from a copy in custom_nodes, whatever else is named."""
    pack = tmp_path / "ComfyUI" / "custom_nodes" / "comfy-gpu-offload"
    shutil.copytree(ROOT / "src", pack / "src", ignore=shutil.ignore_patterns("__pycache__"))
    (tmp_path / "ComfyUI" / "comfyui_version.py").write_text('__version__ = "0.3.64"\n')
    with ThreadWorker(OfRelease()) as worker:
        (pack / ".env").write_text(f"COMFY_GPU_OFFLOAD_URL={worker.url}\nCOMFY_GPU_OFFLOAD_TOKENS=1\n")
        done = subprocess.run(
            [sys.executable, "-m", "comfy_gpu_offload", "doctor"],
            capture_output=True,
            text=True,
            check=False,
            env={**environment(), "PYTHONPATH": str(pack / "src")},
            cwd=tmp_path,
        )
    assert done.returncode == 0, done.stderr
    assert "ComfyUI is 0.3.64 here and 0.33.0 at the worker" in done.stdout
    assert "COMFY_GPU_OFFLOAD_TOKENS is not a setting and has no effect" in done.stdout


def test_what_is_no_comfyui_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COMFY_GPU_OFFLOAD_URL", "http://127.0.0.1:9")
    assert main(["doctor", "--comfyui", str(tmp_path)]) == 2
    assert "not a ComfyUI folder" in capsys.readouterr().err


def test_a_queue_endpoint_is_told_by_its_counts_and_tried(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with RunPodGateway() as gateway, SdkWorker(gateway, env={"COMFY_GPU_OFFLOAD_BACKEND": "diffusers"}):
        configure(monkeypatch, gateway.base_url)
        assert main(["doctor"]) == 0
    said = capsys.readouterr()
    checks = lines(said.out)
    assert "a queue endpoint; workers: " in checks["RunPod"]
    assert "digits" in checks["forward call"]
    assert KEY not in said.out + said.err


def test_a_load_balancing_endpoint_is_woken_first(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with ThreadWorker(DiffusersBackend()) as open_worker:
        limits = EdgeLimits(hold_s=0.2)
        with LoadBalancerEdge(open_worker.url, wake_s=1.5, limits=limits) as edge:
            configure(monkeypatch, edge.base_url)
            monkeypatch.setenv("COMFY_GPU_OFFLOAD_URL", edge.url)
            monkeypatch.setenv("COMFY_GPU_OFFLOAD_ENDPOINT", "load-balancer")
            assert main(["doctor"]) == 0
    said = capsys.readouterr().out
    assert "no worker runs: starting one" in said
    assert "waiting for the endpoint's worker" in said
    assert "forward call" in lines(said)


def test_a_wrong_key_is_found_at_runpod(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with RunPodGateway() as gateway:
        configure(monkeypatch, gateway.base_url)
        monkeypatch.setenv("RUNPOD_API_KEY", "rpa_WRONG0123456789")
        assert main(["doctor"]) == 1
    said = capsys.readouterr()
    assert "FAIL  RunPod" in said.out
    assert "RUNPOD_API_KEY" in said.err
    assert "WRONG0123456789" not in said.out + said.err


def configure(monkeypatch: pytest.MonkeyPatch, base_url: str) -> None:
    monkeypatch.setenv("RUNPOD_API_KEY", KEY)
    monkeypatch.setenv("RUNPOD_ENDPOINT_ID", ENDPOINT)
    monkeypatch.setenv("RUNPOD_BASE_URL", base_url)
