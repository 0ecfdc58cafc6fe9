"""The bytes that a step moves with each encoding, of a model by formula."""

from __future__ import annotations

import pytest

from comfy_gpu_offload.codec_names import COMPRESSIONS
from comfy_gpu_offload.io import codecs
from comfy_gpu_offload.tuning.encoding_costs import WAYS, EncodingCost, Shape, costs
from comfy_gpu_offload.tuning.models import MODELS
from comfy_gpu_offload.tuning.step_prediction import OF_CHOICE

LOSSLESS = {name for name in codecs.names() if codecs.named(name).lossless}


def test_every_lossless_setting_is_offered_and_the_way_of_each_is_known() -> None:
    assert OF_CHOICE.keys() == {name for name in COMPRESSIONS if name in LOSSLESS | {"auto", "none"}}
    assert {way for ways in OF_CHOICE.values() for way in ways} == WAYS.keys()
    assert {WAYS[way].codec.name for way in WAYS} == LOSSLESS | {"auto"}


@pytest.fixture(scope="module", params=[False, True], ids=["deterministic", "ancestral"])
def measured(request: pytest.FixtureRequest) -> tuple[Shape, dict[str, EncodingCost]]:
    shape = Shape.of(MODELS["sd15"], 0.1, 20, has_noise=request.param)
    return shape, costs(shape)


def test_prediction_saves_bytes_of_a_deterministic_run_and_none_going_up_of_an_ancestral_one(
    measured: tuple[Shape, dict[str, EncodingCost]],
) -> None:
    shape, taken = measured
    assert taken["raw"].up_bytes >= shape.call_bytes > taken["coded"].up_bytes
    saved = taken["coded"].up_bytes / taken["predicted"].up_bytes
    assert saved < 1.5 if shape.has_noise else saved > 5
    assert taken["predicted"].down_bytes < taken["raw"].down_bytes


def test_a_deterministic_runs_bytes_are_about_those_of_a_trained_models() -> None:
    """A trained model's run of Flux's latent in bfloat16 moves 0.7 and 4.5 bits an element: docs/benchmarks.md."""
    shape = Shape.of(MODELS["flux"], 0.1, 20)
    taken = costs(shape)["predicted"]
    assert taken.up_bytes * 8 / shape.elements < 1.5
    assert 3.5 < taken.down_bytes * 8 / shape.elements < 6.5
