from __future__ import annotations

import pytest

from comfy_gpu_offload.errors import (
    HttpStatusError,
    NoWorkerError,
    RunPodAuthError,
    RunPodRateLimitError,
    RunPodWrongKindError,
    TransportError,
)
from comfy_gpu_offload.transport.runpod_intermediaries import RunPodEdge

URL = "https://e.example"


@pytest.mark.parametrize(
    ("status", "text", "kind", "is_retryable"),
    [
        (400, '{"error": "no workers available"}', NoWorkerError, True),
        (400, '{"error": "timed out waiting for worker"}', NoWorkerError, True),
        (400, '{"error": "malformed"}', HttpStatusError, False),
        (400, '{"error": "not allowed for QB API"}', RunPodWrongKindError, False),
        (400, "bad request: body: exceeded max body size of 30MB", HttpStatusError, False),
        (401, '{"title": "Unauthorized"}', RunPodAuthError, False),
        (403, "", RunPodAuthError, False),
        (404, '{"error": "affinity_worker_gone"}', NoWorkerError, True),
        (404, "There is nothing here.", HttpStatusError, False),
        (413, "", HttpStatusError, False),
        (426, "", HttpStatusError, False),
        (429, "", RunPodRateLimitError, True),
        (500, "", HttpStatusError, True),
        (502, "<html>", NoWorkerError, True),
        (503, "", NoWorkerError, True),
        (524, "<html>", NoWorkerError, True),
    ],
)
def test_each_answer_has_its_meaning(
    status: int, text: str, kind: type[TransportError], is_retryable: bool
) -> None:
    error = RunPodEdge().refusal(URL, status, text)
    assert type(error) is kind
    assert error.retryable is is_retryable


def test_a_strict_affinity_that_is_gone_is_a_start() -> None:
    front = RunPodEdge()
    front.replied({"x-runpod-worker-id": "worker-1"})
    assert front.request_headers() == {"X-Runpod-Worker-Id": "worker-1"}
    error = front.refusal("https://e.example", 404, '{"error": "affinity_worker_gone"}')
    assert isinstance(error, NoWorkerError)
    assert front.request_headers() == {}


@pytest.mark.parametrize("name", ["two words", "line\r\nInjected: yes", "ünïcode"])
def test_a_workers_name_that_is_no_header_text_is_not_sent_back(name: str) -> None:
    front = RunPodEdge()
    front.replied({"x-runpod-worker-id": name})
    assert front.request_headers() == {}
