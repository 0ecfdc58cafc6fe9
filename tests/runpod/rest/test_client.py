"""The REST client against a scripted server: who is told what, what is sent again, and what is never left."""

from __future__ import annotations

import json
import logging
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler
from typing import Any

import pytest
from pydantic import SecretStr
from tests.support.runpod_api import KEY, Answer, FakeClock, LoopbackApi, breaks_off, loopback_api, says

from comfy_gpu_offload.config.address import Address
from comfy_gpu_offload.config.settings import given_settings
from comfy_gpu_offload.errors import (
    ConfigError,
    RunPodAuthError,
    RunPodBalanceError,
    RunPodCapacityError,
    RunPodError,
    RunPodForbiddenError,
    RunPodNotFoundError,
    RunPodRateLimitError,
    RunPodReplyError,
    RunPodRequestError,
    RunPodRuleError,
)
from comfy_gpu_offload.net.clock import Clock
from comfy_gpu_offload.runpod.rest.client import RestClient
from comfy_gpu_offload.runpod.rest.creation_requests import EndpointRequest, PodRequest, VolumeRequest
from comfy_gpu_offload.runpod.rest.options import RestOptions
from comfy_gpu_offload.runpod.rest.schema import PodStatus

TOKEN = "a-very-secret-token"
NAME = "comfy-gpu-offload-0123abcd"
WANTED = PodRequest.of(name=NAME, image="a/b:c", gpu_id="NVIDIA L4", env={"TOKEN": TOKEN})
CREATE = ("POST", "/v2/pods")
LIST = ("GET", "/v2/pods")


class StopError(Exception):
    pass


def problem(status: int, detail: str, *errors: str, **headers: str) -> Answer:
    body: dict[str, Any] = {"title": "Refused", "status": status, "detail": detail}
    return says(status, {**body, **({"errors": list(errors)} if errors else {})}, **headers)


def pod(pod_id: str = "abc123", name: str = NAME, status: str = "PROVISIONING", **fields: Any) -> dict[str, Any]:
    return {"id": pod_id, "name": name, "status": status, "cost": 0.44, "env": {"TOKEN": TOKEN}, **fields}


def pods(*listed: dict[str, Any]) -> Answer:
    return says(200, {"pods": list(listed)})


GONE = says(204, None)


def client_of(api: LoopbackApi, clock: Clock | None = None, options: RestOptions | None = None) -> RestClient:
    return RestClient(
        SecretStr(KEY), base_url=Address.parse(api.url), clock=clock or FakeClock().clock, options=options
    )


@pytest.fixture
def gate() -> Iterator[threading.Event]:
    event = threading.Event()
    yield event
    event.set()


# --- refusals -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("answer", "kind", "word"),
    [
        (problem(401, "missing bearer token"), RunPodAuthError, "RUNPOD_API_KEY"),
        (problem(403, "access denied"), RunPodForbiddenError, "write permission"),
        (problem(402, "Insufficient balance"), RunPodBalanceError, "billing"),
        (problem(400, "Your balance is too low to deploy"), RunPodBalanceError, "billing"),
        (problem(400, "There are no longer any instances available"), RunPodCapacityError, "another type"),
        (problem(400, "No instances currently available with the requested specs"), RunPodCapacityError, "free"),
        (problem(400, "GPU not available in this data center"), RunPodCapacityError, "data centre"),
        (problem(500, "insufficient capacity"), RunPodCapacityError, "free"),
        (problem(400, "mounts.persistent and mounts.network are mutually exclusive"), RunPodRuleError, "mounts"),
        (problem(404, "no such volume"), RunPodNotFoundError, "no such volume"),
        (problem(409, "conflict"), RunPodRequestError, "409"),
        (says(302, {}, Location="http://127.0.0.1:9/"), RunPodReplyError, "leads elsewhere"),
    ],
)
def test_each_refusal_of_a_pod_has_its_own_error(answer: Answer, kind: type[RunPodError], word: str) -> None:
    with loopback_api(answer, pods()) as api, pytest.raises(kind, match=word) as caught:
        client_of(api).create_pod(WANTED)
    assert type(caught.value) is kind
    assert not caught.value.retryable
    assert api.requests == [CREATE]


def test_a_broken_rule_names_the_fields() -> None:
    wrong = "$: additional properties 'bogus' not allowed"
    with loopback_api(problem(422, "validation failed", wrong)) as api, pytest.raises(RunPodRuleError) as caught:
        client_of(api).create_pod(WANTED)
    assert caught.value.fields == (wrong,)
    assert wrong in str(caught.value)


def test_no_message_repeats_the_key_or_the_environment(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    said = f"env.TOKEN: {TOKEN} and {KEY} are wrong"
    with loopback_api(problem(422, said, said)) as api:
        client = client_of(api)
        with pytest.raises(RunPodRuleError) as caught:
            client.create_pod(WANTED)
    for text in (str(caught.value), repr(caught.value.fields), repr(client), repr(WANTED), caplog.text):
        assert TOKEN not in text
        assert KEY not in text
    assert "*** and ***" in str(caught.value)
    assert json.loads(api.bodies[0])["env"] == {"TOKEN": TOKEN}


def test_a_reply_of_another_form_is_refused_by_the_fields_names() -> None:
    wrong = says(200, {"pods": [{"id": "abc", "name": 7}]})
    with loopback_api(wrong) as api, pytest.raises(RunPodReplyError, match=r"pods\.0\.name"):
        client_of(api).pods()


def test_words_that_runpod_adds_hide_nothing() -> None:
    with loopback_api(pods(pod(status="HIBERNATING", runtime={"ports": None}, gpu=None))) as api:
        (listed,) = client_of(api).pods()
    assert listed.status is PodStatus.UNKNOWN
    assert not listed.status.has_ended
    assert TOKEN not in repr(listed)


def test_an_id_with_a_path_in_it_is_not_sent() -> None:
    with loopback_api(GONE) as api, pytest.raises(RunPodRequestError, match="id"):
        client_of(api).delete_pod("../network-volumes/abc")
    assert api.requests == []


def test_without_a_key_the_setting_is_named() -> None:
    with pytest.raises(ConfigError, match="RUNPOD_API_KEY is missing"):
        RestClient.of(given_settings())


def test_the_address_of_a_pod_follows_the_setting() -> None:
    key = SecretStr(KEY)
    assert str(RestClient(key).pod_address("abc123", 8288)) == "https://abc123-8288.proxy.runpod.net"
    settings = given_settings(runpod_api_key=key, runpod_pod_address="http://127.0.0.1:9/{pod}/{port}")
    assert str(RestClient.of(settings).pod_address("abc123", 8288)) == "http://127.0.0.1:9/abc123/8288"


# --- what is sent -------------------------------------------------------------------------------------


def test_a_pod_is_asked_for_with_all_that_runpod_would_fill_in_wrongly() -> None:
    body = WANTED.body()
    assert body["gpu"] == {"id": "NVIDIA L4", "count": 1}
    assert body["ports"] == ["8288/http"]
    assert body["disk"] == 30
    assert "dataCenterIds" not in body
    assert "mounts" not in body


def test_an_endpoint_is_asked_for_with_all_that_runpod_would_fill_in_wrongly() -> None:
    wanted = EndpointRequest.of(name=NAME, image="a/b", gpu_pools=("ADA_24",), volume_ids=("vol",))
    body = wanted.body()
    assert body["gpu"] == {"pools": ["ADA_24"], "count": 1}
    assert body["timeout"] == 330_000
    assert body["flashboot"] == "FLASHBOOT"
    assert body["ports"] == ["8288/http"]
    assert body["networkVolumes"] == ["vol"]
    assert body["workers"] == {"min": 0, "max": 1, "idleTimeout": 60}
    assert body["type"] == "LOAD_BALANCER"


def test_a_data_centre_and_a_volume_are_sent_where_they_are_wanted() -> None:
    wanted = PodRequest.of(
        name=NAME, image="a", gpu_id="L4", data_centres=("EU-RO-1",), volume_id="vol", min_cuda="12.8", args="x"
    )
    body = wanted.body()
    assert body["dataCenterIds"] == ["EU-RO-1"]
    assert body["mounts"] == {"network": [{"volumeId": "vol", "path": "/workspace"}]}
    assert body["gpu"]["minCudaVersion"] == "12.8"
    assert body["args"] == "x"


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({"gpu_count": 0}, "gpu_count"),
        ({"ports": ()}, "ports"),
        ({"ports": ("8288",)}, "ports"),
        ({"min_cuda": "12"}, "min_cuda"),
        ({"bogus": TOKEN}, "bogus"),
    ],
)
def test_what_runpod_would_refuse_is_refused_here_by_name(fields: dict[str, Any], named: str) -> None:
    with pytest.raises(RunPodRequestError, match=named) as caught:
        PodRequest.of(**{"name": NAME, "image": "a", "gpu_id": "L4", **fields})
    assert TOKEN not in str(caught.value)


# --- sent again, or not -------------------------------------------------------------------------------


def test_a_read_that_is_lost_or_fails_is_repeated() -> None:
    with loopback_api(breaks_off, problem(503, "later"), pods(pod())) as api:
        assert [listed.id for listed in client_of(api).pods()] == ["abc123"]
    assert api.requests == [LIST] * 3


def test_retry_after_is_waited_for_and_then_the_pod_is_made() -> None:
    fake = FakeClock()
    with loopback_api(problem(429, "rate limit exceeded", Retry_After="12"), says(201, pod())) as api:
        assert client_of(api, fake.clock).create_pod(WANTED).id == "abc123"
    assert 12 <= fake.slept < 13
    assert api.requests == [CREATE, CREATE]


def test_an_exhausted_limit_is_waited_for_before_the_next_request() -> None:
    fake = FakeClock()
    exhausted = '"minute";r=0;t=12, "hour";r=2800;t=1812'
    with loopback_api(says(200, {"pods": []}, RateLimit=exhausted), says(200, {"pods": []})) as api:
        client = client_of(api, fake.clock)
        client.pods()
        assert fake.slept == 0
        client.pods()
        assert 12 <= fake.slept < 13


def test_an_hour_without_requests_is_not_waited_for_except_that_deletes_go_through() -> None:
    fake = FakeClock()
    exhausted = '"minute";r=9;t=12, "hour";r=0;t=1812'
    with loopback_api(says(200, {"pods": []}, RateLimit=exhausted), GONE) as api:
        client = client_of(api, fake.clock)
        client.pods()
        with pytest.raises(RunPodRateLimitError, match="1812 s"):
            client.pods()
        client.delete_pod("abc123")
    assert api.requests == [LIST, ("DELETE", "/v2/pods/abc123")]
    assert fake.slept == 0


def test_a_wait_can_be_interrupted() -> None:
    fake = FakeClock()

    def check() -> None:
        if fake.slept > 3:
            raise StopError

    with loopback_api(problem(429, "slower", Retry_After="60")) as api, pytest.raises(StopError):
        client_of(api, fake.clock).pods(check=check)
    assert fake.slept < 4


def test_a_delete_is_patient_and_one_that_is_gone_is_done() -> None:
    answers = (breaks_off, problem(500, "oh"), problem(429, "slow", Retry_After="2"), problem(404, "no such pod"))
    with loopback_api(*answers) as api:
        client_of(api).delete_pod("abc123")
    assert api.requests == [("DELETE", "/v2/pods/abc123")] * 4


# --- one pod or none ----------------------------------------------------------------------------------


@pytest.mark.parametrize("loss", [breaks_off, problem(502, "bad gateway"), says(201, {"no": "pod"})])
def test_a_pod_whose_create_was_lost_is_found_by_its_name(loss: Answer) -> None:
    others = pods(pod("other1", "comfy-gpu-offload-ffffffff"))
    with loopback_api(loss, others, pods(pod("mine1"), pod("other1", "x")), pods(pod("mine1"))) as api:
        assert client_of(api).create_pod(WANTED).id == "mine1"
    assert api.requests == [CREATE, LIST, LIST, LIST]


def test_a_second_create_is_sent_only_when_the_first_left_nothing() -> None:
    made = says(201, pod("second1"))
    with loopback_api(breaks_off, pods(), pods(), pods(), made, pods(pod("second1"))) as api:
        assert client_of(api).create_pod(WANTED).id == "second1"
    assert api.requests == [CREATE, LIST, LIST, LIST, CREATE, LIST]


def test_a_first_pod_that_appears_after_the_second_was_made_is_deleted() -> None:
    both = pods(pod("first1"), pod("second1"))
    with loopback_api(breaks_off, pods(), pods(), pods(), says(201, pod("second1")), both, GONE) as api:
        assert client_of(api).create_pod(WANTED).id == "second1"
    assert api.requests[-1] == ("DELETE", "/v2/pods/first1")


def test_no_create_is_sent_again_while_nothing_can_be_found_out() -> None:
    with loopback_api(breaks_off, problem(500, "oh")) as api, pytest.raises(RunPodError, match="status") as caught:
        client_of(api).create_pod(WANTED)
    assert caught.value.maybe_submitted
    assert api.requests.count(CREATE) == 1


def test_creates_that_fail_for_good_end_with_the_last_error_and_nothing_left() -> None:
    fails = [problem(500, "oh"), *[pods()] * 3]
    with loopback_api(*fails, *fails, breaks_off, pods()) as api, pytest.raises(RunPodError, match="ended before"):
        client_of(api).create_pod(WANTED)
    assert api.requests.count(CREATE) == 3


def test_a_refusal_after_a_lost_create_says_whether_something_may_be_left() -> None:
    nothing, refused = [pods()] * 3, problem(401, "the key was withdrawn")
    with loopback_api(breaks_off, *nothing, refused, pods()) as api, pytest.raises(RunPodAuthError) as caught:
        client_of(api).create_pod(WANTED)
    assert not caught.value.maybe_submitted
    with loopback_api(breaks_off, *nothing, refused) as api, pytest.raises(RunPodAuthError) as caught:
        client_of(api).create_pod(WANTED)
    assert caught.value.maybe_submitted


def test_no_capacity_is_not_tried_again() -> None:
    with loopback_api(problem(400, "no instances available")) as api, pytest.raises(RunPodCapacityError):
        client_of(api).create_pod(WANTED)
    assert api.requests == [CREATE]


def test_a_caller_who_leaves_during_a_create_leaves_no_pod(gate: threading.Event) -> None:
    def late(handler: BaseHTTPRequestHandler) -> None:
        gate.wait(30)
        says(201, pod("late1"))(handler)

    with loopback_api(late, GONE) as api:

        def check() -> None:
            if CREATE in api.requests:
                raise StopError

        with client_of(api) as client:
            with pytest.raises(StopError):
                client.create_pod(WANTED, check=check)
            gate.set()
        assert api.requests == [CREATE, ("DELETE", "/v2/pods/late1")]


def test_a_caller_who_leaves_while_a_lost_pod_is_looked_for_leaves_none() -> None:
    with loopback_api(breaks_off, pods(), pods(pod("mine1")), GONE) as api:

        def check() -> None:
            if LIST in api.requests:
                raise StopError

        with pytest.raises(StopError):
            client_of(api).create_pod(WANTED, check=check)
    assert api.requests == [CREATE, LIST, LIST, ("DELETE", "/v2/pods/mine1")]


def test_a_slow_create_is_adopted_and_its_late_reply_deletes_nothing(gate: threading.Event) -> None:
    def late(handler: BaseHTTPRequestHandler) -> None:
        gate.wait(30)
        says(201, pod("slow1"))(handler)

    options = RestOptions(create_timeout_s=0.2, connect_timeout_s=0.2)
    with loopback_api(late, pods(pod("slow1"))) as api, client_of(api, options=options) as client:
        assert client.create_pod(WANTED).id == "slow1"
        gate.set()
        client.close()
        assert all(method != "DELETE" for method, _ in api.requests)


def test_an_endpoint_is_found_under_the_name_that_flashboot_gives_it() -> None:
    wanted = EndpointRequest.of(name=NAME, image="a", gpu_pools=("ADA_24",))
    listed = says(200, {"endpoints": [{"id": "ep1", "name": f"{NAME} -fb", "type": "LOAD_BALANCER"}]})
    with loopback_api(breaks_off, listed) as api:
        assert client_of(api).create_endpoint(wanted).id == "ep1"


def test_a_volume_whose_create_was_lost_is_found_by_its_name() -> None:
    wanted = VolumeRequest.of(name=NAME, size_gb=20, data_centre="EU-RO-1")
    volume = {"id": "vol1", "name": NAME, "size": 20, "dataCenter": "EU-RO-1", "type": "STANDARD"}
    with loopback_api(breaks_off, says(200, {"networkVolumes": [volume]})) as api:
        assert client_of(api).create_volume(wanted).id == "vol1"
