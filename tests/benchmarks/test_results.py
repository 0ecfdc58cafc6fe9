from __future__ import annotations

import argparse
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest


@dataclass(frozen=True)
class Row:
    latent: str
    seconds: float
    ratio: float | None


ROWS = [Row("1 KB", 0.00125, 1.5), Row("4 MB", 0.25, None)]
COLUMNS = {"latent": "latent", "ms": "seconds 1e3 .2f", "ratio": "ratio .1%"}


def options(**values: Any) -> argparse.Namespace:
    return argparse.Namespace(**{"seed": 3, "json": None, "output": None, **values})


def test_a_table_of_rows_is_formatted_by_its_columns() -> None:
    from results import Table

    expected = "\n".join([
        "A call:",
        "",
        "| latent |     ms |  ratio |",
        "| ------ | -----: | -----: |",
        "| 1 KB   |   1.25 | 150.0% |",
        "| 4 MB   | 250.00 |      - |",
    ])  # fmt: skip
    assert Table.of("A call", COLUMNS, ROWS).text() == expected


def test_bounds_are_inclusive_and_say_whether_they_are_held() -> None:
    from results import Bound

    assert Bound.at_least("MB/s", 400, 400, ".0f").text() == "MB/s: 400, at least 400: held"
    assert Bound.at_most("times", 2.51, 2.5).text() == "times: 2.51, at most 2.50: NOT HELD"


def test_a_bound_that_is_missed_by_little_does_not_look_held() -> None:
    from results import Bound

    assert Bound.at_most("ms", 95.31, 95.1, ".0f").text() == "ms: 95.31, at most 95.1: NOT HELD"
    assert Bound.at_most("ms", 95.1, 95.31, ".0f").text() == "ms: 95, at most 95: held"


@pytest.mark.parametrize(("ratio", "check", "status"), [(1.0, True, 0), (9.0, True, 1), (9.0, False, 0)])
def test_what_is_not_held_is_a_failure_where_it_is_checked(
    ratio: float, check: bool, status: int, capsys: pytest.CaptureFixture[str]
) -> None:
    from results import Bound, Results, conclude

    results = Results("name", ROWS, [], [Bound.at_most("times", ratio, 2)])
    assert conclude(results, options(), check=check) == status
    assert ("NOT HELD" in capsys.readouterr().out) == (ratio > 2)


def test_rows_tables_bounds_and_options_are_written_and_tokens_are_not(tmp_path: Path) -> None:
    from results import Bound, Results, Table, conclude

    table = Table.of("", COLUMNS, ROWS)
    results = Results("name", ROWS, [table], [Bound.at_most("times", 1, 2)], {}, ["a note"])
    path = tmp_path / "deep" / "rows.json"
    conclude(results, options(json=path, token="hidden", folder=Path("x")))
    written = json.loads(path.read_text())
    assert written["rows"] == [
        {"latent": "1 KB", "seconds": 0.00125, "ratio": 1.5},
        {"latent": "4 MB", "seconds": 0.25, "ratio": None},
    ]
    assert written["options"] == {"seed": 3, "folder": "x"}
    assert written["tables"] == [{"title": "", "heads": table.heads, "cells": table.cells}]
    assert written["bounds"] == [{"what": "times", "measured": "1.00", "bound": "at most 2.00", "held": True}]
    assert written["notes"] == ["a note"]


def test_plots_are_drawn_only_where_they_are_wanted(tmp_path: Path) -> None:
    import plots
    from results import Results, conclude

    def draw() -> Any:
        figure, axes = plots.panels(1, 1)
        plots.bars(axes[0], ["a", "b"], [1, 2], labels=["1", "2"])
        drawn.append(figure)
        return figure

    drawn: list[Any] = []
    results = Results("name", ROWS, [], plots={"bars": draw})
    conclude(results, options())
    assert drawn == []
    conclude(results, options(output=tmp_path / "new"))
    assert (tmp_path / "new" / "bars.png").read_bytes().startswith(b"\x89PNG")
