"""The command `tune` with real workers: a process behind a link, TLS, a pairing, a proxy, RunPod's endpoints."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.support.backend import FunctionBackend
from tests.support.connect_proxy import ConnectProxy
from tests.support.process import WorkerProcess, environment, worker_process
from tests.support.runpod_edge import LoadBalancerEdge
from tests.support.runpod_gateway import ENDPOINT, KEY, RunPodGateway
from tests.support.runpod_worker import SdkWorker
from tests.support.tls import self_signed
from tests.support.worker import ThreadWorker

from comfy_gpu_offload.cli import tune_command
from comfy_gpu_offload.cli.main import main
from comfy_gpu_offload.config.settings import Settings, variable
from comfy_gpu_offload.tuning import saved_setting

ROOT = Path(__file__).parents[2]
TOKEN = "a-token-that-nobody-may-see"
NAME = "COMFY_GPU_OFFLOAD_COMPRESSION"
# A small latent, and no long pauses.
QUICK = ("tune", "--model", "sd15", "--call", "0.05")


@pytest.fixture(autouse=True)
def _nothing_is_set(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in Settings.model_fields:
        monkeypatch.delenv(variable(name), raising=False)
    # What a user's own .env is in; a test's is the current folder's.
    monkeypatch.setattr(saved_setting, "env_file_to_write", lambda: tmp_path / ".env")


@pytest.fixture(scope="module")
def worker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[WorkerProcess]:
    folder = tmp_path_factory.mktemp("worker")
    options = ("--backend", "diffusers", "--port", "0", "--host", "127.0.0.1")
    with worker_process(*options, cwd=folder, COMFY_GPU_OFFLOAD_TOKEN=TOKEN) as made:
        yield made


def use(monkeypatch: pytest.MonkeyPatch, url: str, **settings: str) -> None:
    monkeypatch.setenv("COMFY_GPU_OFFLOAD_URL", url)
    monkeypatch.setenv("COMFY_GPU_OFFLOAD_TOKEN", TOKEN)
    for name, value in settings.items():
        monkeypatch.setenv(name, value)


def make_planes_fastest(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have measurements say that `planes` is much faster than all else."""
    found = tune_command.predict

    def predict(*args: object, **kwargs: object) -> object:
        made = found(*args, **kwargs)  # type: ignore[arg-type]
        return [
            type(each)(**{**vars(each), "step_s": each.step_s - (10 if each.choice == "planes" else 0)})
            for each in made
        ]

    monkeypatch.setattr(tune_command, "predict", predict)


def test_a_worker_behind_a_link_is_measured_and_what_to_set_is_said(
    worker: WorkerProcess, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    from thread_link import thread_link

    with thread_link(0.04, 20e6 / 8, 100e6 / 8, worker.port) as port:
        use(monkeypatch, f"http://127.0.0.1:{port}")
        assert main([*QUICK]) == 0
    said = capsys.readouterr()
    (line,) = [each for each in said.out.splitlines() if each.startswith("Line: ")]
    assert float(line.split()[1]) >= 40
    rows = {each.split()[0] for each in said.out.splitlines() if each}
    assert {"auto", "none", "planes", "zstd"} <= rows
    assert "as one job" in said.out
    assert f"{NAME}=" in said.out
    assert TOKEN not in said.out + said.err
    assert not (tmp_path / ".env").exists()


def test_a_worker_that_does_not_answer_is_told_before_any_coding(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    use(monkeypatch, "http://127.0.0.1:9")
    monkeypatch.setattr(tune_command, "costs", lambda *_: pytest.fail("coded something first"))
    assert main([*QUICK]) == 1
    (said,) = capsys.readouterr().err.splitlines()
    assert "127.0.0.1:9" in said


def test_no_configured_worker_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["tune"]) == 2
    assert "No worker is configured" in capsys.readouterr().err


def test_a_wrong_token_is_told(
    worker: WorkerProcess, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    use(monkeypatch, worker.url, COMFY_GPU_OFFLOAD_TOKEN="another")
    assert main([*QUICK]) == 1
    assert "COMFY_GPU_OFFLOAD_TOKEN" in capsys.readouterr().err


def test_a_worker_with_a_certificate_of_ones_own_is_reached_through_a_proxy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    cert, key = self_signed(tmp_path, "DNS:worker.example")
    options = ("--backend", "diffusers", "--port", "0", "--host", "127.0.0.1")
    tls = ("--tls-cert", str(cert), "--tls-key", str(key))
    with (
        worker_process(*options, *tls, cwd=tmp_path, COMFY_GPU_OFFLOAD_TOKEN=TOKEN) as made,
        ConnectProxy({"worker.example:443": made.port}) as proxy,
    ):
        use(monkeypatch, "https://worker.example", COMFY_GPU_OFFLOAD_CA_FILE=str(cert), HTTPS_PROXY=proxy.url())
        assert main([*QUICK]) == 0
    assert "worker.example:443" in proxy.asked
    assert "A picture: " in capsys.readouterr().out


def test_a_worker_is_reached_by_its_pairing_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ("--backend", "diffusers", "--port", "0", "--share", "--host", "127.0.0.1")
    with worker_process(*options, cwd=tmp_path, HOME=str(tmp_path)) as made:
        monkeypatch.setenv("COMFY_GPU_OFFLOAD_URL", made.pairing_line())
        assert main([*QUICK]) == 0
    assert "A picture: " in capsys.readouterr().out


def test_a_queue_endpoint_is_measured_after_pauses(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with RunPodGateway() as gateway, SdkWorker(gateway, env={"COMFY_GPU_OFFLOAD_BACKEND": "diffusers"}):
        monkeypatch.setenv("RUNPOD_API_KEY", KEY)
        monkeypatch.setenv("RUNPOD_ENDPOINT_ID", ENDPOINT)
        monkeypatch.setenv("RUNPOD_BASE_URL", gateway.base_url)
        assert main([*QUICK]) == 0
    said = capsys.readouterr()
    assert "measured after pauses" in said.out
    assert "A picture: " in said.out
    assert KEY not in said.out + said.err


def test_a_load_balancing_endpoint_is_measured(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with ThreadWorker(FunctionBackend()) as behind, LoadBalancerEdge(behind.url) as edge:
        for name, value in edge.client_settings().items():
            monkeypatch.setenv(variable(name), value)
        assert main([*QUICK]) == 0
    assert "A picture: " in capsys.readouterr().out


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (
            f"\ufeff# mine\r\nA=1 # one\r\n{NAME}=none  # why\r\n\r\nB='2'\r\n",
            f"\ufeff# mine\r\nA=1 # one\r\n{NAME}=planes  # why\r\n\r\nB='2'\r\n",
        ),
        (f"\ufeff{NAME}=auto\r\nB=2", f"\ufeff{NAME}=planes\r\nB=2"),
        ("A=1\n# end", f"A=1\n# end\n{NAME}=planes\n"),
    ],
)
def test_the_file_keeps_every_byte_but_the_one_line(
    before: str,
    after: str,
    worker: WorkerProcess,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    file = tmp_path / ".env"
    file.write_bytes(before.encode())
    use(monkeypatch, worker.url)
    make_planes_fastest(monkeypatch)
    assert main([*QUICK, "--write"]) == 0
    assert file.read_bytes() == after.encode()
    assert str(file) in capsys.readouterr().out


def test_without_being_told_to_nothing_is_written(
    worker: WorkerProcess, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / ".env"
    file.write_bytes(b"A=1\n")
    use(monkeypatch, worker.url)
    make_planes_fastest(monkeypatch)
    assert main([*QUICK]) == 0
    assert file.read_bytes() == b"A=1\n"
    assert "tune --write" in capsys.readouterr().out


def test_a_lossy_setting_stays(
    worker: WorkerProcess, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / ".env"
    file.write_bytes(f"{NAME}=int8-block\n".encode())
    use(monkeypatch, worker.url)
    make_planes_fastest(monkeypatch)
    assert main([*QUICK, "--write"]) == 0
    assert file.read_bytes() == f"{NAME}=int8-block\n".encode()
    assert "lossy" in capsys.readouterr().out


def test_a_setting_in_the_environment_is_said_to_count_more(
    worker: WorkerProcess, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    use(monkeypatch, worker.url, **{NAME: "zstd"})
    make_planes_fastest(monkeypatch)
    assert main([*QUICK, "--write"]) == 0
    assert "counts more than a file" in capsys.readouterr().out


def test_ctrl_c_ends_it_with_a_line_and_writes_nothing(worker: WorkerProcess, tmp_path: Path) -> None:
    (tmp_path / ".env").write_bytes(b"A=1\n")
    settings = {"COMFY_GPU_OFFLOAD_URL": worker.url, "COMFY_GPU_OFFLOAD_TOKEN": TOKEN}
    command = [sys.executable, "-m", "comfy_gpu_offload", "tune", "--model", "wan", "--call", "1", "--write"]
    running = subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**environment(**settings), "PYTHONUNBUFFERED": "1"},
        cwd=tmp_path,
    )
    assert running.stdout is not None
    for line in running.stdout:
        if line.startswith("Line: "):
            break
    running.send_signal(signal.SIGINT if os.name == "posix" else signal.CTRL_C_EVENT)  # type: ignore[attr-defined]
    _, said = running.communicate(timeout=60)
    assert running.returncode == 130
    assert said.split("\n") == ["", "Stopped; nothing was written.", ""]
    assert (tmp_path / ".env").read_bytes() == b"A=1\n"


def test_what_calculates_does_not_write(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["tune", "--link", "40/20/100", "--model", "flux", "--write"]) == 2
    assert "--write" in capsys.readouterr().err
