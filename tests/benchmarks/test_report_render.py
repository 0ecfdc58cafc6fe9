"""The report from given rows, to the letter."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

TEMPLATE = """# Benchmarks

{{summary}}

## Speed

{{speed}}

## Size

{{size}}
"""
HELD = {"what": "MB/s to encode", "measured": "911", "bound": "at least 400", "held": True}
BROKEN = {"what": "MB/s to decode", "measured": "700", "bound": "at least 800", "held": False}


def document(*bounds: dict[str, Any]) -> dict[str, Any]:
    table = {"title": "Speeds", "heads": ["codec", "MB/s"], "cells": [["planes", "911"], ["a|b", "-"]]}
    return {
        "rows": [{"codec": "planes"}],
        "notes": ["zipnn is left out"],
        "tables": [table],
        "bounds": list(bounds),
    }


def test_tables_bounds_and_plots_are_rendered_in_their_places() -> None:
    from report_render import Outcome, rendered

    speed = Outcome("python speed.py --calls 3", 0, document(HELD), "unused", "", ["speed.png", "speed_more.png"])
    size = Outcome("python size.py", 0, document(), plots=[])
    assert (
        rendered(TEMPLATE, {"speed": speed, "size": size}, "plots")
        == """# Benchmarks

All 1 bounds that the benchmarks state were held in this run.

## Speed

`python speed.py --calls 3`

Zipnn is left out.

Speeds:

| codec  | MB/s |
| ------ | ---: |
| planes |  911 |
| a\\|b   |    - |

- MB/s to encode: 911, at least 400: held

![speed](plots/speed.png)

![speed more](plots/speed_more.png)

## Size

`python size.py`

Zipnn is left out.

Speeds:

| codec  | MB/s |
| ------ | ---: |
| planes |  911 |
| a\\|b   |    - |
"""
    )


def test_what_is_not_held_what_failed_and_what_is_missing_is_said_on_top_and_in_its_place() -> None:
    from report_render import Outcome, rendered

    template = "{{summary}}\n\n{{speed}}\n\n{{size}}\n\n{{crash}}"
    outcomes = {
        "speed": Outcome("python speed.py", 1, document(HELD, BROKEN)),
        "size": Outcome("python size.py", None, error="there is no such file yet"),
        "crash": Outcome("python crash.py", 1, None, "half a table\n", "OSError: no such link"),
    }
    assert (
        rendered(template, outcomes, ".")
        == """**Bounds that this run did not hold**, on a machine that may have had other work:

- `speed`: MB/s to decode: 700, at least 800

**`crash` failed**: see its section.

Without figures: `size` (there is no such file yet).

`python speed.py`

Zipnn is left out.

Speeds:

| codec  | MB/s |
| ------ | ---: |
| planes |  911 |
| a\\|b   |    - |

- MB/s to encode: 911, at least 400: held
- MB/s to decode: 700, at least 800: **not held**

`python size.py`: there is no such file yet.

`python crash.py`

```
half a table
```

**This run failed**, exit status 1: OSError: no such link"""
    )


@pytest.mark.parametrize("template", ["{{summary}}", "{{summary}}\n{{speed}}\n{{speed}}", "{{speed}}"])
def test_a_template_that_leaves_a_benchmark_out_is_refused(template: str) -> None:
    from report_render import Outcome, rendered

    with pytest.raises(ValueError, match="places"):
        rendered(template, {"speed": Outcome("python speed.py", 0, document())}, ".")


def test_the_template_has_a_place_for_every_command_that_is_run() -> None:
    from report_commands import COMMANDS, FOLDER
    from report_render import Outcome, rendered

    template = (FOLDER / "report_template.md").read_text()
    rendered(template, {command.name: Outcome(command.name, None) for command in COMMANDS}, ".")


def test_every_benchmark_is_run_by_the_report_or_named_as_run_apart() -> None:
    from report_commands import APART, COMMANDS, FOLDER

    commands = {path.stem for path in FOLDER.glob("*.py") if "def main(" in path.read_text()}
    assert commands - {"report", *APART} <= {command.name for command in COMMANDS}


def test_a_run_leaves_its_plots_and_rows_and_one_that_fails_says_why(tmp_path: Path) -> None:
    import report
    from report_commands import Command

    class Fake(Command):
        path = tmp_path / "fake.py"

    (tmp_path / "fake.py").write_text(
        "import json, pathlib, sys\n"
        '_, _, seed, _, rows, _, output = sys.argv[1:]  # "--output"\n'
        "pathlib.Path(output, 'fake.png').write_bytes(b'PNG')\n"
        "pathlib.Path(rows).write_text(json.dumps({'tables': [], 'rows': [int(seed)]}))\n"
        "print('done')\n"
        "sys.exit('not today')\n"
    )
    outcome = report._run(Fake("fake", ("--small",)), 7, tmp_path / "plots")
    assert (outcome.status, outcome.output, outcome.error) == (1, "done\n", "not today")
    assert outcome.document == {"tables": [], "rows": [7]}
    assert outcome.plots == ["fake.png"]
    assert (tmp_path / "plots" / "fake.png").read_bytes() == b"PNG"
    assert report._run(Command("no-such-benchmark"), 0, tmp_path).status is None
