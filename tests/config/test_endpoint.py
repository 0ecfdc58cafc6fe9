from __future__ import annotations

from typing import Any

import pytest

from comfy_gpu_offload.config.endpoint import Direct, Serverless, configured
from comfy_gpu_offload.config.settings import given_settings
from comfy_gpu_offload.errors import ConfigError

LINE = "comfy-gpu-offload://gpu-box:8288/#1AQIDBAUGBwgJCgsMDQ4PEBESExQVFhcYZGVmZ2hpamtsbW5vcHFyc3R1dnd4eXp7fH1-f4CBgoNOtovr"

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


def test_a_pairing_line_names_a_worker_its_token_and_its_certificate() -> None:
    target = chosen(url=LINE, token="another", runpod_api_key=KEY, runpod_endpoint_id="abc123")
    assert isinstance(target, Direct)
    assert str(target.address) == "https://gpu-box:8288"
    assert target.token is not None
    assert target.token.get_secret_value() == "AQIDBAUGBwgJCgsMDQ4PEBESExQVFhcY"
    assert target.fingerprint == bytes(range(100, 132))
    assert target == chosen(url=LINE, endpoint="direct")


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
        ({"url": LINE, "endpoint": "queue"}, "pairing line of a worker of your own"),
        ({"url": LINE[:-1]}, "was cut"),
    ],
)
def test_what_is_missing_or_contradictory_is_said(values: dict[str, Any], says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        chosen(**values)


def test_no_target_shows_its_secret() -> None:
    settings = given_settings(url=LINE, token=KEY)
    targets = [chosen(url=LOCAL, token=KEY), chosen(runpod_endpoint_id="abc123", runpod_api_key=KEY)]
    assert len({settings, given_settings(url=LINE, token=KEY), given_settings(url=LINE)}) == 2  # keys of sessions
    shown = repr([*targets, configured(settings), settings, settings.model_dump(), settings.model_dump_json()])
    assert KEY not in shown
    assert LINE.rpartition("#1")[2][:10] not in shown
