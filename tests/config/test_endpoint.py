from __future__ import annotations

from typing import Any

import pytest

from comfy_gpu_offload.config.endpoint import Direct, Serverless, configured
from comfy_gpu_offload.config.settings import given_settings
from comfy_gpu_offload.errors import ConfigError

KEY = "rpa_0123456789"
LOCAL = "http://127.0.0.1:8288"


def chosen(**values: Any) -> Direct | Serverless:
    return configured(given_settings(**values))


def test_an_address_is_a_worker_reached_directly() -> None:
    target = chosen(url=LOCAL, token="t", runpod_api_key=KEY)
    assert isinstance(target, Direct)
    assert str(target.address) == LOCAL
    assert target.token is not None
    assert not target.is_pod


def test_an_address_wins_over_an_endpoint() -> None:
    assert isinstance(chosen(url=LOCAL, runpod_endpoint_id="abc123", runpod_api_key=KEY), Direct)


def test_a_pod_is_known_by_its_proxy() -> None:
    target = chosen(url="https://abc123-8288.proxy.runpod.net", token="t")
    assert isinstance(target, Direct)
    assert target.is_pod


@pytest.mark.parametrize("kind", ["auto", "queue", "load-balancer"])
def test_an_id_and_a_key_are_an_endpoint_of_the_kind_that_is_set(kind: str) -> None:
    target = chosen(runpod_endpoint_id="abc123", runpod_api_key=KEY, endpoint=kind)
    assert isinstance(target, Serverless)
    assert (target.kind, target.endpoint_id, str(target.address)) == (
        kind,
        "abc123",
        "https://abc123.api.runpod.ai",
    )


def test_a_load_balancers_address_says_which_endpoint_it_is() -> None:
    target = chosen(url="https://abc123.api.runpod.ai/", runpod_api_key=KEY)
    assert isinstance(target, Serverless)
    assert (target.kind, target.endpoint_id) == ("load-balancer", "abc123")


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ({}, "COMFY_GPU_OFFLOAD_URL"),
        ({}, "RUNPOD_ENDPOINT_ID and RUNPOD_API_KEY"),
        ({"endpoint": "direct"}, "No worker is configured"),
        ({"endpoint": "direct", "runpod_api_key": KEY}, "No worker is configured"),
        ({"runpod_api_key": KEY}, "RUNPOD_ENDPOINT_ID is missing"),
        ({"endpoint": "queue"}, "RUNPOD_ENDPOINT_ID is missing"),
        ({"runpod_endpoint_id": "abc123"}, "console.runpod.io/user/settings"),
        ({"url": "https://api.runpod.ai/v2/abc123", "runpod_api_key": KEY}, "put the endpoint's id into"),
        ({"url": "https://abc123.api.runpod.ai"}, "RUNPOD_API_KEY is missing"),
        ({"url": LOCAL, "endpoint": "queue", "runpod_endpoint_id": "abc123"}, "has no address"),
    ],
)
def test_what_is_missing_or_contradictory_is_said(values: dict[str, Any], says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        chosen(**values)


def test_no_target_shows_its_secret() -> None:
    targets = [chosen(url=LOCAL, token=KEY), chosen(runpod_endpoint_id="abc123", runpod_api_key=KEY)]
    assert KEY not in repr(targets)
