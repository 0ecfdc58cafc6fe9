from __future__ import annotations

import argparse

import pytest

from comfy_gpu_offload.cli import price_lines
from comfy_gpu_offload.cli.main import main


def calculated(*arguments: str) -> int:
    parser = argparse.ArgumentParser()
    price_lines.add_arguments(parser)
    return price_lines.calculate(parser.parse_args(arguments))


def test_a_calculation_shows_each_way_and_says_what_it_assumes(capsys: pytest.CaptureFixture[str]) -> None:
    assert calculated("--link", "40/20/100", "--model", "flux", "--gpu", "4090", "--steps", "20") == 0
    shown = capsys.readouterr().out
    for way in ("a call each step", "whole loop as one job", "workflow up, picture down", "this machine alone"):
        assert way in shown
    assert "not measured" in shown
    assert "$1.12 an hour" in shown


def test_the_command_tune_calculates(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["tune", "--link", "40/20/100", "--model", "wan", "--gpu", "h100"]) == 0
    assert "H100 SXM" in capsys.readouterr().out


@pytest.mark.parametrize("wrong", [["--link", "40/0/100"], ["--model", "none"], ["--steps", "0"], ["--call", "-3"]])
def test_a_wrong_argument_is_said_in_a_line(wrong: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        main(["tune", *wrong])
    assert wrong[0] in capsys.readouterr().err.splitlines()[-1]


def test_measured_seconds_and_a_price_of_ones_own_take_the_place_of_the_table(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert calculated("--link", "1/1000/1000", "--model", "sdxl", "--call", "0.5", "--price", "0.36", "--warm") == 0
    shown = capsys.readouterr().out
    assert "takes 0.5 s, as given" in shown
    assert "$0.36 an hour" in shown
    assert "cold start" not in shown


@pytest.mark.parametrize(
    ("given", "missing"), [(["--link", "40/20/100"], "--model"), (["--model", "flux"], "--link")]
)
def test_a_calculation_without_a_link_or_a_model_says_which(
    given: list[str], missing: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert calculated(*given) == 2
    assert f"needs {missing} too" in capsys.readouterr().err


def test_a_model_that_does_not_fit_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    calculated("--link", "40/20/100", "--model", "qwen-image", "--gpu", "4090")
    assert "do not fit" in capsys.readouterr().out
