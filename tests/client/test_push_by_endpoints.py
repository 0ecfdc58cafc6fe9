"""Pushes to RunPod's endpoints, whose requests have limits, by their load balancer and by their queue."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from tests.support.model_files import safetensors_file
from tests.support.queue_loop import QueueLoop
from tests.support.runpod_edge import LoadBalancerEdge
from tests.support.runpod_gateway import ENDPOINT, KEY, RunPodGateway
from tests.support.storing_worker import FOLDER, StoringBackend
from tests.support.worker import ThreadWorker
from worker.queue_jobs import QueueJobs

from comfy_gpu_offload.client.connect import connect_from
from comfy_gpu_offload.config.settings import given_settings
from comfy_gpu_offload.server.handler import Handler, HandlerOptions
from comfy_gpu_offload.server.model_store import disk_space

NAME = "own.safetensors"
DATA = safetensors_file(30_000_000)  # more than either takes in one request


@contextmanager
def load_balancer(backend: StoringBackend, *, passes_websockets: bool) -> Iterator[dict[str, Any]]:
    with ThreadWorker(backend, takes_models=True) as worker, LoadBalancerEdge(worker.url) as edge:
        edge.passes_websockets = passes_websockets
        yield {"endpoint": "load-balancer", "url": edge.url, "runpod_base_url": f"{edge.url}/v2"}


@contextmanager
def queue(backend: StoringBackend) -> Iterator[dict[str, Any]]:
    handler = Handler(backend, HandlerOptions(takes_models=True))
    with RunPodGateway() as gateway, QueueLoop(gateway, QueueJobs(handler)):
        yield {"endpoint": "queue", "runpod_base_url": gateway.base_url}


@pytest.mark.parametrize("way", ["websocket", "http", "queue"])
def test_a_file_gets_there_whole(way: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(disk_space, "MARGIN_BYTES", 0)
    (tmp_path / NAME).write_bytes(DATA)
    backend = StoringBackend(tmp_path / "models")
    made = queue(backend) if way == "queue" else load_balancer(backend, passes_websockets=way == "websocket")
    with made as values:
        settings = given_settings(runpod_api_key=KEY, runpod_endpoint_id=ENDPOINT, **values)
        with connect_from(settings) as session:
            session.push_model(tmp_path / NAME, FOLDER, uploads=True)
    assert (tmp_path / "models" / NAME).read_bytes() == DATA
