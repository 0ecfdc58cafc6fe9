"""Audio encoders at a worker: equal to ComfyUI's own bit for bit; what it does not see is refused by name."""

import json
import re
from pathlib import Path
from typing import Any

import pytest

from .harness.checkouts import Checkout
from .harness.fixtures import run_script

pytestmark = [pytest.mark.comfyui, pytest.mark.each_release]

Found = dict[str, Any]


@pytest.fixture(scope="session")
def found(checkout: Checkout, python: Path, tmp_path_factory: pytest.TempPathFactory) -> Found:
    """Return the findings of scripts/audio_encoders/run.py."""
    output = run_script(
        python, "audio_encoders/run.py", checkout.root, tmp_path_factory.mktemp("audio_encoders"), timeout_s=900
    )
    read: Found = json.loads(output.splitlines()[-1])
    return read


def test_both_ways_of_loading_give_what_comfyuis_nodes_give(found: Found) -> None:
    assert len(found["equal"]) == 6
    for name, (remote, local, spread) in found["equal"].items():
        assert remote, name
        assert local, name
        assert spread > 0.01, name


def test_the_worker_lists_its_files(found: Found) -> None:
    names = ("none", "wav2vec2-base", "wav2vec2-large", "whisper")
    assert found["listed"] == [f"{name}.safetensors" for name in names]


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ("another_rate", "model_sample_rate"),
        ("another_network", "network's model"),
        ("object_patch", "the object patch on encoder"),
        ("copied", "to copy the network"),
        ("saved", "to save them"),
        ("loaded", "to put others in their place"),
        ("network", "to call the network itself"),
        ("converted", r"to change their dtype, to torch\.float16"),
        ("no encoder", r"none\.safetensors as an audio encoder"),
        ("not there", r"There is no audio encoder 'missing\.safetensors'"),
    ],
)
def test_what_the_worker_does_not_see_or_have_is_refused_by_name(found: Found, change: str, named: str) -> None:
    said = found["refused"][change]
    assert re.match(r"\w+Error: ", said)
    assert re.search(named, said), said
