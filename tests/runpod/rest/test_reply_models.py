from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from comfy_gpu_offload.errors import RunPodReplyError
from comfy_gpu_offload.runpod.api_requests import Reply, Request
from comfy_gpu_offload.runpod.rest.reply_models import parsed
from comfy_gpu_offload.runpod.rest.schema import (
    Availability,
    BillingRecords,
    Endpoints,
    GpuOffers,
    Pods,
    PodStatus,
    Volumes,
)

SECRET = "a-secret-in-a-reply"
POD = {"id": "abc123", "name": "comfy-gpu-offload-0123abcd", "status": "RUNNING"}
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)


def pods_of(*listed: Any) -> Pods:
    return parsed(Pods, Reply(200, json.dumps({"pods": listed}).encode()), Request("GET", "/pods", 1))


def test_what_a_pod_need_not_have_may_be_of_any_form() -> None:
    wrong = {
        **POD,
        "cost": "dear",
        "gpu": {"id": 7, "count": 1},
        "runtime": {"uptime": "long", "ports": [{"private": "x"}, None]},
        "createdAt": "2026-06-01 12:00:00 +0000 UTC",
        "dataCenterId": ["EU"],
        "image": None,
    }
    first, second = pods_of(wrong, {**POD, "cost": 0.4}).pods
    assert (first.id, first.status, first.cost, first.gpu, first.created_at) == (
        "abc123",
        PodStatus.RUNNING,
        None,
        None,
        None,
    )
    assert second.cost == 0.4


@settings(max_examples=60, deadline=None)
@given(st.dictionaries(st.sampled_from(["cost", "gpu", "runtime", "createdAt", "cloud", "image", "x"]), JSON))
def test_whatever_else_a_pod_has_it_is_found(others: dict[str, Any]) -> None:
    assert [pod.id for pod in pods_of({**others, **POD}, POD).pods] == ["abc123", "abc123"]


@pytest.mark.parametrize("missing", ["id", "name", "status"])
@pytest.mark.parametrize("value", [None, 7, [], {"a": SECRET}], ids=repr)
def test_what_a_pod_must_have_is_named_and_never_shown(missing: str, value: Any) -> None:
    with pytest.raises(RunPodReplyError, match=rf"pods\.0\.{missing}") as caught:
        pods_of({**POD, missing: value})
    assert SECRET not in str(caught.value)


@pytest.mark.parametrize("body", [b"", b"<html>", b"[]", b"7", b"null", b"{}", b"[" * 100_000, b"\xff"])
@pytest.mark.parametrize("kind", [Pods, Endpoints, Volumes, GpuOffers, BillingRecords], ids=lambda k: k.__name__)
def test_what_is_no_reply_is_refused(kind: Any, body: bytes) -> None:
    with pytest.raises(RunPodReplyError, match="not of the form"):
        parsed(kind, Reply(200, body), Request("GET", "/pods", 1))


def test_an_offer_of_which_only_the_memory_is_known_has_no_price() -> None:
    listed = {"gpus": [{"id": "NVIDIA X", "memory": 24, "price": {"secure": "?"}, "availability": "PLENTY"}]}
    (offer,) = parsed(GpuOffers, Reply(200, json.dumps(listed).encode()), Request("GET", "/catalog/gpus", 1)).gpus
    assert offer.price.secure is None
    assert offer.availability is Availability.UNKNOWN
