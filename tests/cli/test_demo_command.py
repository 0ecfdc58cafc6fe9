from __future__ import annotations

import re
from pathlib import Path

import pytest

from comfy_gpu_offload.cli.main import main


def test_the_demo_proves_itself_and_draws(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    image_module = pytest.importorskip("PIL.Image")
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[2] / "src"))
    picture = tmp_path / "digits.png"
    assert main(["demo", "--steps", "3", "--each", "1", "--output", str(picture)]) == 0
    out = capsys.readouterr().out
    assert "bit for bit, both ways: yes" in out
    assert len(re.findall(r"^ +[123](?: +[\d.]+){9}$", out, re.MULTILINE)) == 3
    with image_module.open(picture) as image:
        assert image.width > image.height
        darkest, lightest = image.convert("L").getextrema()
        assert lightest - darkest > 100
