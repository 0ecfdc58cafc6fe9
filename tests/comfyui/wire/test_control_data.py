"""Checks of a ControlNet's fields: good ones are taken, each bad one is refused by name."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from comfy_gpu_offload.backends.base import ModelRunError
from comfy_gpu_offload.comfyui.wire.control_data import (
    KEY,
    AppliedNet,
    CallInputs,
    RunNet,
    remote_net_fields,
)
from comfy_gpu_offload.comfyui.wire.picture_values import pack_picture


def fields(**changes: Any) -> dict[str, Any]:
    """Return the fields of a call and of a run."""
    given = {
        "net": "edges.safetensors",
        "fingerprint": "f" * 16,
        "strength": 0.8,
        "control_type": None,
        "hint": torch.zeros(1, 3, 8, 8, dtype=torch.uint8),
        "encoded": False,
        "masks": [],
        "x": torch.zeros(2, 4, 1, 1),
        "timestep": torch.zeros(2),
        "context": torch.zeros(2, 3, 5),
        "conds": {"y": torch.zeros(2, 7)},
        "chunks": 2,
        "previous": None,
        "start": 0.0,
        "end": 1.0,
    }
    return {**given, **changes}


def test_a_good_one_is_taken() -> None:
    assert AppliedNet.of(fields(control_type=[3])).control_type == [3]
    assert CallInputs.of(fields()).chunks == 2
    assert [entry.previous for entry in RunNet.table([fields(), fields(previous=0)])] == [None, 0]


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("net", ""),
        ("net", 3),
        ("net", "n" * 257),
        ("fingerprint", None),
        ("strength", math.nan),
        ("strength", math.inf),
        ("strength", 1e9),
        ("strength", "1"),
        ("control_type", [-1]),
        ("control_type", [1.5]),
        ("control_type", list(range(65))),
        ("hint", None),
        ("hint", torch.zeros(8, 8, 3)),
        ("hint", torch.zeros(1, 0, 8, 3)),
        ("hint", torch.zeros(1, 1, 1, 1, dtype=torch.int64)),
        ("hint", torch.zeros(1, 1, 1, dtype=torch.uint8).expand(1, 20_000, 1).unsqueeze(0)),
        ("hint", torch.zeros(1, 1, 1, 1).expand(4, 16_000, 16_000, 3)),
        # What a former release set where it had moved the channels.
        ("channels_last", True),
        ("encoded", None),
        ("masks", [None]),
        ("masks", [torch.zeros(1, 1, 1, 1)] * 9),
    ],
)
def test_an_application_that_is_none_is_refused(name: str, value: Any) -> None:
    with pytest.raises(ModelRunError, match=f"no proper {name}"):
        AppliedNet.of(fields(**{name: value}))


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("x", torch.zeros(2, 4)),
        ("x", torch.zeros(2, 4, 1, 1, dtype=torch.int64)),
        ("timestep", None),
        ("timestep", torch.zeros(2, 1)),
        ("timestep", torch.zeros(0)),
        ("context", "text"),
        ("conds", [torch.zeros(1)]),
        ("conds", {"y": 3}),
        ("chunks", 0),
        ("chunks", True),
    ],
)
def test_inputs_that_are_none_are_refused(name: str, value: Any) -> None:
    with pytest.raises(ModelRunError, match=f"no proper {name}"):
        CallInputs.of(fields(**{name: value}))


@pytest.mark.parametrize("name", sorted(set(fields()) - {"x", "timestep", "context", "conds", "chunks"}))
def test_nothing_may_be_missing_in_a_run(name: str) -> None:
    given = fields()
    del given[name]
    with pytest.raises(ModelRunError, match=f"no proper {name}"):
        RunNet.table([given])


@pytest.mark.parametrize(
    "table",
    [
        {},
        [None],
        [[1]],
        [{1: 2}],
        [fields(previous=0)],
        [fields(), fields(previous=1)],
        [fields(previous=-1)],
        [fields(start=-0.1)],
        [fields(end=math.nan)],
        [fields()] * 1025,
    ],
)
def test_a_table_that_is_none_is_refused(table: Any) -> None:
    with pytest.raises(ModelRunError):
        RunNet.table(table)


@pytest.mark.parametrize("control", [None, {}, {"output": [torch.zeros(1)]}, [], "text"])
def test_what_names_no_control_net_is_left_alone(control: Any) -> None:
    assert remote_net_fields(control) is None


@pytest.mark.parametrize("named", [None, [], {1: 2}])
def test_a_control_net_of_no_form_is_refused(named: Any) -> None:
    with pytest.raises(ModelRunError):
        remote_net_fields({KEY: named})


@pytest.mark.parametrize("channels_last", [True, False])
@pytest.mark.parametrize("exact", [True, False])
def test_a_picture_arrives_as_it_was(channels_last: bool, exact: bool) -> None:
    image = torch.randint(0, 256, (2, 5, 4, 3)).float() / 255.0
    image = image if exact else image * 0.999
    picture = image.movedim(-1, 1) if channels_last else image.movedim(-1, 1).contiguous()
    hint = pack_picture(picture)
    assert hint.dtype is (torch.uint8 if exact else torch.float32)
    arrived = AppliedNet.of(fields(hint=hint)).picture
    assert torch.equal(arrived, picture)
    # Convolutions on a CPU give other last bits for another order in memory.
    assert arrived.stride() == picture.stride()
