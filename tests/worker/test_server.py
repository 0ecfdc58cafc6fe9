"""`worker/server.py` as a load-balancing endpoint's worker and as a pod's."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path
from time import monotonic, sleep

import pytest
import requests
import torch
from tests.support.platforms import needs_posix
from tests.support.runpod_edge import LoadBalancerEdge
from tests.worker.processes import ROOT, ServerProcess, free_port, server_process, settings

from comfy_gpu_offload import connect
from comfy_gpu_offload.client.connect import connect_from
from comfy_gpu_offload.config.settings import given_settings
from comfy_gpu_offload.digits import sampling
from comfy_gpu_offload.digits.model import load
from comfy_gpu_offload.errors import UnauthorizedError

ENDPOINT = {"RUNPOD_POD_ID": "worker-1", "RUNPOD_ENDPOINT_ID": "endpoint-1"}
POD = {"RUNPOD_POD_ID": "pod-1"}
TOKEN = "token-that-must-not-be-seen-0123456789"


def pinged(port: int) -> int | None:
    """Return the status of `/ping`, or None if nothing listens."""
    try:
        return requests.get(f"http://127.0.0.1:{port}/ping", timeout=30).status_code
    except requests.ConnectionError:
        return None


def states_until_ready(server: ServerProcess, *ports: int) -> list[list[int]]:
    """Return the statuses of `/ping` on each port up to the first 200, without repetitions."""
    seen: list[list[int]] = [[] for _ in ports]
    deadline = monotonic() + 120
    while not all(states and states[-1] == 200 for states in seen):
        assert monotonic() < deadline, seen
        assert server.process.poll() is None, "".join(server.log)
        for states, port in zip(seen, ports, strict=True):
            state = pinged(port)
            if state is not None and states[-1:] != [state]:
                states.append(state)
        sleep(0.01)
    return seen


@needs_posix
def test_ping_says_204_until_the_model_is_loaded_and_then_200_on_both_ports(tmp_path: Path) -> None:
    port, health = free_port(), free_port()
    given = {"PORT": str(port), "PORT_HEALTH": str(health), "COMFY_GPU_OFFLOAD_PRELOAD": "digits"}
    with server_process(tmp_path, **ENDPOINT, **given) as server:
        assert states_until_ready(server, port, health) == [[204, 200], [204, 200]]
        server.ready()
        assert requests.post(f"http://127.0.0.1:{health}/v1/hello", timeout=60).status_code == 404
        assert requests.get(f"http://127.0.0.1:{health}/v1/connect", timeout=60).status_code == 404
        assert server.terminate() == 0
    assert "loading digits" in "".join(server.log)
    assert pinged(port) is pinged(health) is None


def test_a_load_balancing_endpoint_takes_calls_with_runpods_key_as_the_bearer(tmp_path: Path) -> None:
    given = {"PORT": "0", "COMFY_GPU_OFFLOAD_PRELOAD": "digits"}
    with server_process(tmp_path, **ENDPOINT, **given) as server:
        url = server.ready().replace("0.0.0.0", "127.0.0.1")
        with connect(url, "a-runpod-api-key") as session:
            remote = session.model("digits")
            there = sampling.sample(remote, [3, 1, 4], steps=2, dtype=remote.dtype)
            first = remote.timings[0]
    assert torch.equal(there, sampling.sample(load(remote.dtype), [3, 1, 4], steps=2, dtype=remote.dtype))
    # It still looks whether the model's files are those that it was loaded from.
    assert first.load_s < first.compute_s, "the model was loaded by the first call, not before it"


def test_calls_reach_it_by_a_websocket_through_the_edge(tmp_path: Path) -> None:
    given = {"PORT": "0", "COMFY_GPU_OFFLOAD_PRELOAD": "digits"}
    with server_process(tmp_path, **ENDPOINT, **given) as server:
        url = server.ready().replace("0.0.0.0", "127.0.0.1")
        with LoadBalancerEdge(url) as edge, connect_from(given_settings(**edge.client_settings())) as session:
            remote = session.model("digits")
            there = sampling.sample(remote, [3, 1, 4], steps=2, dtype=remote.dtype)
        assert {request.path for request in edge.requests} == {"/ping", "/v1/connect"}
    assert torch.equal(there, sampling.sample(load(remote.dtype), [3, 1, 4], steps=2, dtype=remote.dtype))


@needs_posix
def test_a_token_on_a_load_balancing_endpoint_is_said_to_be_in_vain(tmp_path: Path) -> None:
    with server_process(tmp_path, **ENDPOINT, PORT="0", COMFY_GPU_OFFLOAD_TOKEN=TOKEN) as server:
        url = server.ready().replace("0.0.0.0", "127.0.0.1")
        connect(url, "a-runpod-api-key").close()
        assert server.terminate() == 0
    log = "".join(server.log)
    assert "COMFY_GPU_OFFLOAD_TOKEN is ignored" in log
    assert "never match" in log
    assert TOKEN not in log


@needs_posix
def test_a_pod_asks_for_its_token(tmp_path: Path) -> None:
    with server_process(tmp_path, **POD, PORT="0", COMFY_GPU_OFFLOAD_TOKEN=TOKEN) as server:
        url = server.ready().replace("0.0.0.0", "127.0.0.1")
        with pytest.raises(UnauthorizedError):
            connect(url)
        with connect(url, TOKEN) as session:
            assert {entry.name for entry in session.models()} == {"digits"}
        assert server.terminate() == 0
    assert TOKEN not in "".join(server.log)


@pytest.mark.parametrize(
    ("given", "says"),
    [
        (POD, "A pod's proxy address is public"),
        ({}, "Anyone on the network"),
        # A client's settings, that lie about where a worker is started.
        ({"RUNPOD_ENDPOINT_ID": "endpoint-1"}, "Anyone on the network"),
    ],
)
def test_without_a_token_it_refuses_to_be_open_to_all(tmp_path: Path, given: dict[str, str], says: str) -> None:
    with server_process(tmp_path, **given, PORT="0") as server:
        assert server.ended() == 2
    log = "".join(server.log)
    assert says in log
    assert "COMFY_GPU_OFFLOAD_TOKEN" in log
    assert "Traceback" not in log


@pytest.mark.parametrize("given", [POD, {}])
def test_a_token_that_can_be_guessed_is_refused_with_how_to_make_one(tmp_path: Path, given: dict[str, str]) -> None:
    with server_process(tmp_path, **given, PORT="0", COMFY_GPU_OFFLOAD_TOKEN="aaaaaaaaaaaaaaaaaaaa") as server:
        assert server.ended() == 2
    log = "".join(server.log)
    assert "too easy to guess" in log
    assert "secrets.token_urlsafe(32)" in log
    assert "aaaaaaaaaa" not in log


def test_a_model_to_preload_that_is_not_there_ends_the_worker_with_the_reason(tmp_path: Path) -> None:
    with server_process(tmp_path, **ENDPOINT, PORT="0", COMFY_GPU_OFFLOAD_PRELOAD="nobody") as server:
        assert server.ended() == 2
    log = "".join(server.log)
    assert "COMFY_GPU_OFFLOAD_PRELOAD=nobody: There is no model" in log
    assert "Traceback" not in log


@pytest.mark.parametrize("name", ["PORT", "PORT_HEALTH"])
def test_a_port_that_is_taken_says_so(tmp_path: Path, name: str) -> None:
    with socket.create_server(("0.0.0.0", 0)) as taken:
        given = {"PORT": "0", name: str(taken.getsockname()[1])}
        with server_process(tmp_path, **ENDPOINT, **given) as server:
            assert server.ended() == 2
    assert f":{given[name]}" in "".join(server.log)
    assert "annot listen" in "".join(server.log)
    assert "Traceback" not in "".join(server.log)


def test_the_images_entry_serves_http_when_told_to(tmp_path: Path) -> None:
    given = {"COMFY_GPU_OFFLOAD_SERVE": "http", "PYTHONPATH": f"{ROOT / 'src'}{os.pathsep}{ROOT}"}
    done = subprocess.run(
        [sys.executable, "-m", "worker"],
        env=settings(**POD, **given),
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 2
    assert "A pod's proxy address is public" in done.stderr
