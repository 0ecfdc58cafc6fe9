"""A client and a worker whose ComfyUI are different releases, either way round."""

import json
from pathlib import Path
from typing import Any

import pytest

from .harness.checkouts import Checkout, install_requirements
from .harness.fixtures import CHECKOUTS, run_script
from .harness.site import REPOSITORY, Worker, new_token

pytestmark = [pytest.mark.comfyui, pytest.mark.each_release]

Found = dict[str, Any]
_RUNS = ("MMDiT", "a batch", "regional", "masked", "drawing noise", "with LoRAs", "UNet", "video")


@pytest.fixture(scope="module")
def other(checkout: Checkout) -> Checkout:
    """Return another release than `checkout`."""
    others = [each for each in CHECKOUTS if each.version != checkout.version]
    if not others:
        pytest.skip("there is one ComfyUI release only: name another in COMFYUI_PATHS")
    return others[0]


@pytest.fixture(scope="module")
def found(
    checkout: Checkout, other: Checkout, python: Path, models_yaml: Path, tmp_path_factory: pytest.TempPathFactory
) -> Found:
    """Return the findings of scripts/jobs/two_releases.py with a worker of the other release."""
    interpreter = other.python()
    install_requirements(interpreter, REPOSITORY / "requirements.txt")
    worker = Worker(other, interpreter, tmp_path_factory.mktemp("other"), models_yaml, new_token())
    worker.begin()
    try:
        worker.await_ready()
        address = {
            "COMFY_GPU_OFFLOAD_URL": f"http://127.0.0.1:{worker.port}",
            "COMFY_GPU_OFFLOAD_TOKEN": worker.token,
        }
        script = "jobs/two_releases.py"
        output = run_script(python, script, checkout.root, models_yaml.parent, further=address)
    finally:
        worker.stop()
    found: Found = json.loads(output.splitlines()[-1])
    return found


@pytest.mark.parametrize("run", _RUNS)
def test_each_step_gives_what_this_release_gives(found: Found, run: str) -> None:
    assert found["each step"][run]["spread"] > 0.1
    assert found["each step"][run]["off by"] < 1e-4


def test_auto_keeps_the_loop_here_and_a_whole_loop_is_warned_of(
    found: Found, checkout: Checkout, other: Checkout
) -> None:
    assert not found["whole loop"]["auto"]
    assert found["whole loop"]["whole loop"]
    (said,) = found["whole loop"]["said"]
    assert f"ComfyUI is {checkout.version} here and {other.version} at the worker" in said
