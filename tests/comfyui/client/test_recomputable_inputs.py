"""Inputs that the network recomputes are not sent, and the caller's own are left as they are."""

from __future__ import annotations

import pytest
import torch


@pytest.mark.usefixtures("comfy_stand_in")
def test_what_the_network_recomputes_is_left_out() -> None:
    from comfy_gpu_offload.comfyui.client.recomputable_inputs import without_recomputable

    payload = {"layout": object(), "frames": 3}
    given = {"minimax_payload": payload, "context": torch.ones(1)}
    assert without_recomputable(given) == {"minimax_payload": {"frames": 3}, "context": given["context"]}
    assert "layout" in payload
    others = {"context": None, "minimax_payload": None}
    assert without_recomputable(others) is others
