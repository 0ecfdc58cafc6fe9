"""The `worker` command, as a process."""

from __future__ import annotations

import subprocess
import sys
import threading
from pathlib import Path
from time import monotonic, sleep

import pytest
import torch
from tests.support.frames import malformed_frames
from tests.support.platforms import needs_posix
from tests.support.process import environment, worker_process

from comfy_gpu_offload import connect
from comfy_gpu_offload.cli.main import main
from comfy_gpu_offload.digits import conditioning, sampling
from comfy_gpu_offload.digits.model import WEIGHTS, load

DIFFUSERS = ("--backend", "diffusers", "--port", "0", "--cpu")
LABELS = [3, 1, 4, 1]


def test_the_digits_model_samples_the_same_there_as_here(tmp_path: Path) -> None:
    with worker_process(*DIFFUSERS, cwd=tmp_path) as worker, connect(worker.url) as session:
        remote = session.model("digits")
        assert remote.dtype is torch.bfloat16
        there = sampling.sample(remote, LABELS, steps=4, dtype=remote.dtype)
        here = sampling.sample(load(remote.dtype), LABELS, steps=4, dtype=remote.dtype)
        assert torch.equal(there, here)
        assert torch.isfinite(there).all()
        other = sampling.sample(remote, LABELS, steps=4, seed=1, dtype=remote.dtype)
        assert not torch.equal(there, other)


def test_a_worker_killed_and_started_again_between_two_steps_changes_nothing(tmp_path: Path) -> None:
    with worker_process(*DIFFUSERS, cwd=tmp_path) as first:
        port = first.port
        session = connect(first.url, retry_s=120)
        remote = session.model("digits")
        replacement = []

        def restart(step: int, *_: object) -> None:
            if step == 2:
                first.kill()
                again = worker_process(*DIFFUSERS[:2], "--port", str(port), "--cpu", cwd=tmp_path)
                replacement.append((again, threading.Thread(target=again.__enter__)))
                replacement[0][1].start()

        there = sampling.sample(remote, LABELS, steps=5, dtype=remote.dtype, callback=restart)
        here = sampling.sample(load(remote.dtype), LABELS, steps=5, dtype=remote.dtype)
        replacement[0][1].join(60)
        replacement[0][0].__exit__(None, None, None)
    assert torch.equal(there, here)
    exchanges = [timings.exchanges for timings in remote.timings]
    assert exchanges[2] > 1, "the restart went unnoticed"
    assert exchanges[3:] == [1, 1]


@needs_posix
def test_sigterm_finishes_the_running_call_and_exits_0(tmp_path: Path) -> None:
    with worker_process(*DIFFUSERS, cwd=tmp_path) as worker, connect(worker.url) as session:
        remote = session.model("digits")
        context, pooled = conditioning.conditioning([5] * 256)
        results: list[torch.Tensor] = []

        def call() -> None:
            results.append(
                remote(
                    hidden_states=torch.zeros(256, 16, 8, 8, dtype=remote.dtype),
                    timestep=torch.full((256,), 500.0),
                    encoder_hidden_states=context.to(remote.dtype),
                    pooled_projections=pooled.to(remote.dtype),
                    return_dict=False,
                )[0]
            )

        call()
        running = threading.Thread(target=call)
        running.start()
        deadline = monotonic() + 30
        while "".join(worker.log).count(" begins") < 2:
            assert monotonic() < deadline
            sleep(0.005)
        assert worker.terminate() == 0
        running.join(60)
    assert len(results) == 2
    assert torch.equal(results[0], results[1])


def test_it_takes_a_models_folder_and_a_file(tmp_path: Path) -> None:
    folder = tmp_path / "zoo" / "mine"
    folder.mkdir(parents=True)
    for file in (WEIGHTS, WEIGHTS.parent / "config.json"):
        (folder / file.name).write_bytes(file.read_bytes())
    zoo = ("--models", str(tmp_path / "zoo"))
    with worker_process(*DIFFUSERS, *zoo, cwd=tmp_path) as worker, connect(worker.url) as session:
        assert {entry.name for entry in session.models()} == {"digits", "mine"}
        assert session.model("mine", "float32").dtype is torch.float32
    odd = folder / "other-name.safetensors"
    (folder / WEIGHTS.name).rename(odd)
    one = ("--models", str(odd))
    with worker_process(*DIFFUSERS, *one, cwd=tmp_path) as worker, connect(worker.url) as session:
        remote = session.model("other-name")
        there = sampling.sample(remote, [7], steps=1, dtype=remote.dtype)
    assert torch.equal(there, sampling.sample(load(remote.dtype), [7], steps=1, dtype=remote.dtype))


def test_it_says_what_it_offers_and_what_of_its_options_helps_nobody(tmp_path: Path) -> None:
    options = ("--models", str(tmp_path), "--host", "0.0.0.0")
    with worker_process(*DIFFUSERS, *options, cwd=tmp_path, COMFY_GPU_OFFLOAD_TOKEN="0123456789abcdef") as worker:
        worker.terminate()
        log = "".join(worker.log)
    assert "1 model: digits" in log
    assert f"{tmp_path}: there is no diffusers model in it" in log
    assert log.count("without a certificate") == 1


def test_nothing_secret_is_in_any_log_line(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A working run, a failing one and garbage, at DEBUG on both sides."""
    import requests

    token = "token-that-must-not-be-seen-0123456789"
    prompt = "a prompt nobody else may read"
    caplog.set_level("DEBUG")
    with worker_process(*DIFFUSERS, cwd=tmp_path, COMFY_GPU_OFFLOAD_TOKEN=token) as worker:
        with connect(worker.url, token) as session:
            remote = session.model("digits")
            sampling.sample(remote, [7], steps=1, dtype=remote.dtype)
            with pytest.raises(Exception, match="raised"):
                remote(torch.full((3,), 123456.789), prompt, prompt=prompt)
        with pytest.raises(Exception, match="token"):
            connect(worker.url, "wrong-" + token)
        for frame in malformed_frames().values():
            headers = {"Authorization": f"Bearer {token}", "Content-Type": "application/octet-stream"}
            requests.post(f"{worker.url}/v1/forward", data=frame, headers=headers, timeout=60)
        worker.terminate()
        log = "".join(worker.log) + caplog.text
    assert "answered with the fault" in log
    assert "forward digits" in log
    for secret in (token, prompt, "123456.7", "tensor("):
        assert secret not in log


def run_worker(tmp_path: Path, *arguments: str, **settings: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "comfy_gpu_offload", "worker", *arguments]
    return subprocess.run(
        command,
        capture_output=True,
        check=False,
        text=True,
        timeout=60,
        env=environment(**settings),
        cwd=tmp_path,
    )


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.1.7", "example.com"])
def test_it_refuses_to_be_open_to_the_network_without_a_token(tmp_path: Path, host: str) -> None:
    done = run_worker(tmp_path, "--backend", "diffusers", "--host", host)
    assert done.returncode == 2
    assert "COMFY_GPU_OFFLOAD_TOKEN" in done.stderr
    assert "listening" not in done.stdout


@pytest.mark.parametrize(
    "token", ["a", "hunter2", "123456789012345", "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa", "abcabc" * 9]
)
def test_a_token_that_can_be_guessed_is_refused_with_how_to_make_one(tmp_path: Path, token: str) -> None:
    done = run_worker(tmp_path, "--backend", "diffusers", "--host", "0.0.0.0", COMFY_GPU_OFFLOAD_TOKEN=token)
    assert done.returncode == 2
    assert 'python -c "import secrets; print(secrets.token_urlsafe(32))"' in done.stderr
    assert "too easy to guess" in done.stderr
    assert "listening" not in done.stdout
    assert token == "a" or token not in done.stderr


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("--backend", "comfyui", "--comfyui", "/nowhere"), "not a ComfyUI folder"),
        (("--backend", "comfyui"), "--comfyui PATH is missing"),
        (("--backend", "diffusers", "--models", "/nowhere"), "no such file"),
        (("--backend", "diffusers", "--port", "99999"), "0 to 65535"),
        (("--backend", "diffusers", "--tls-cert", __file__), "belong together"),
        (("--backend", "diffusers", "--tls-cert", "a.pem"), "--tls-cert: a.pem cannot be read: No such file"),
        (("--backend", "diffusers", "--extra-model-paths-config", "/"), "cannot be read"),
        (("--backend", "comfyui", "--models", __file__), "this is not a folder"),
    ],
)
def test_a_wrong_option_says_what_is_wrong(tmp_path: Path, arguments: tuple[str, ...], says: str) -> None:
    done = run_worker(tmp_path, *arguments)
    assert done.returncode == 2
    assert says in done.stderr
    assert "Traceback" not in done.stderr


def test_a_port_that_is_taken_says_so(tmp_path: Path) -> None:
    with worker_process(*DIFFUSERS, cwd=tmp_path) as worker:
        done = run_worker(tmp_path, "--backend", "diffusers", "--port", str(worker.port))
    assert done.returncode == 2
    assert "Cannot listen" in done.stderr
    assert "--port" in done.stderr


def test_models_lists_what_the_worker_has(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    with worker_process(*DIFFUSERS, cwd=tmp_path) as worker:
        monkeypatch.setenv("COMFY_GPU_OFFLOAD_URL", worker.url)
        assert main(["models"]) == 0
    assert "digits" in capsys.readouterr().out


def test_without_a_worker_configured_models_names_the_setting(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("COMFY_GPU_OFFLOAD_URL", raising=False)
    assert main(["models"]) == 2
    assert "COMFY_GPU_OFFLOAD_URL" in capsys.readouterr().err
