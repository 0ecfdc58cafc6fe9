from __future__ import annotations

import importlib.util
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


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--output", "missing/digits.png"], "there is no folder missing"),
        (["--output", "digits"], "must end in .png"),
        (["--output", "."], "must end in .png"),
        (["--each", "99999"], "99999 is not from 1 to 100"),
        (["--steps", "0"], "0 is not from 1 to 1000"),
        (["--seed", str(2**64)], "is not from 0 to"),
    ],
)
def test_what_cannot_work_is_said_before_the_work(
    options: list[str],
    says: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as caught:
        main(["demo", *options])
    said = capsys.readouterr()
    assert caught.value.code == 2
    assert says in said.err
    assert "Starting" not in said.out


def test_a_missing_extra_is_said_before_the_work(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    found = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *rest: None if name == "PIL" else found(name, *rest)
    )
    assert main(["demo"]) == 2
    said = capsys.readouterr()
    assert "pip install 'comfy-gpu-offload[demo]'" in said.err
    assert "Starting" not in said.out


def test_another_workers_settings_do_not_reach_the_demos(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("PIL.Image")
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[2] / "src"))
    monkeypatch.chdir(tmp_path)
    Path(".env").write_text("COMFY_GPU_OFFLOAD_TOKEN=a-token-of-another-worker-0123456789\n")
    assert main(["demo", "--steps", "1", "--each", "1"]) == 0
    assert "bit for bit, both ways: yes" in capsys.readouterr().out
