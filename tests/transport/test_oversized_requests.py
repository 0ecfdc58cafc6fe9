from __future__ import annotations

from typing import get_args

import pytest

from comfy_gpu_offload.transport.base import Route
from comfy_gpu_offload.transport.oversized_requests import too_large


@pytest.mark.parametrize("route", get_args(Route))
def test_every_kind_of_request_has_advice_of_its_own(route: Route) -> None:
    text = str(too_large(route, "It takes 30 MB.", "a pod", size_bytes=30, limit_bytes=28))
    assert text.startswith("It takes 30 MB. ")
    assert "a pod" in text
    assert ("offload: whole loop" in text) == (route == "forward")
    assert ("LoRA" in text) == (route == "hello")
