"""No weights on the client: the memory of a large model's stand-in. Its time: benchmarks/stand_in.py."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest

from .harness.process import environment
from .harness.site import REPOSITORY, Site

pytestmark = pytest.mark.comfyui

_SCRIPT = Path(__file__).parent / "scripts" / "measure_skeleton.py"


def run(site: Site, *arguments: str | Path) -> str:
    done = subprocess.run(
        [site.python, _SCRIPT, site.checkout.root, *arguments],
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
        env=environment({"PYTHONPATH": str(REPOSITORY / "src")}),
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.each_release
@pytest.mark.parametrize(("name", "parameters"), [("qwen-image-20b", 20e9), ("wan-14b", 14e9)])
def test_a_large_models_stand_in_is_small(site: Site, tmp_path: Path, name: str, parameters: float) -> None:
    frame = tmp_path / "description.bin"
    run(site, "describe", name, frame)
    cost = json.loads(run(site, "build", frame).splitlines()[-1])
    print(name, cost)
    assert cost["weights"] > parameters
    assert cost["resident"] == 0
    assert cost["grown_bytes"] < 50e6
