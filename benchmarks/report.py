"""Run every benchmark small, and write docs/benchmarks.md and its plots: `make bench`.

    python benchmarks/report.py                       # all of them, some minutes
    python benchmarks/report.py --only codecs quality # these anew, the others as they were run last
    python benchmarks/report.py --only                # nothing anew: the template was changed

What each run left, JSON and output, is kept in benchmarks/results. Exits with 1 where a bound was not held or a
run failed; the report says which.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shlex
import shutil
import subprocess
import sys
import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).parent))
import arguments
from report_commands import COMMANDS, FOLDER, Command
from report_render import Outcome, failures, rendered

_ROOT = FOLDER.parent
_TEMPLATE = FOLDER / "report_template.md"
_KEPT = FOLDER / "results"
_MOST_S = 600
# The width at which tables of those that print their own are not wrapped.
_ENVIRONMENT = {"COLUMNS": "200", "OMP_WAIT_POLICY": "passive"}


def main() -> int:
    """Run everything and write the page; exit status 1 if a bound was not held or a run failed."""
    options = _options()
    plots_folder: Path = options.output or options.report.with_suffix("")
    chosen = COMMANDS if options.only is None else [each for each in COMMANDS if each.name in options.only]
    progress: Any
    with arguments.progress(chosen, unit="benchmark") as progress:
        for command in progress:
            progress.set_description(command.name)
            _keep(command.name, _run(command, options.seed, plots_folder))
    outcomes = {command.name: _kept(command) for command in COMMANDS}
    template = _TEMPLATE.read_text().replace("{{machine}}", _machine()).replace("{{seed}}", str(options.seed))
    folder = os.path.relpath(plots_folder, options.report.parent)
    options.report.write_text(rendered(template, outcomes, Path(folder).as_posix()) + "\n")
    _leave_only(plots_folder, {plot for outcome in outcomes.values() for plot in outcome.plots})
    if options.json:
        options.json.write_text(json.dumps({name: _rows(outcome) for name, outcome in outcomes.items()}, indent=1))
    bad = [f"{name}: {said}" for name, outcome in outcomes.items() for said in failures(outcome)]
    print("\n".join([f"{options.report} is written.", *bad]))
    return 1 if bad else 0


def _options() -> argparse.Namespace:
    parser = arguments.parser(__doc__, seed_of="each benchmark")
    parser.add_argument("--only", nargs="*", choices=[each.name for each in COMMANDS], metavar="NAME")
    parser.add_argument(
        "--report",
        type=arguments.output_file(),
        default=str(_ROOT / "docs" / "benchmarks.md"),
        help="(default: docs/benchmarks.md)",
    )
    return parser.parse_args()


def _run(command: Command, seed: int, plots_folder: Path) -> Outcome:
    typed = shlex.join(["python", f"benchmarks/{command.path.name}", *command.arguments])
    if not command.path.exists():
        return Outcome(typed, None, error="there is no such file yet")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        line = [sys.executable, str(command.path), *command.arguments, "--seed", str(seed)]
        line += ["--json", str(folder / "rows.json")]
        if _draws(command):
            line += ["--output", str(folder)]
        try:
            done = subprocess.run(  # noqa: S603  # our own files
                line,
                cwd=_ROOT,
                env={**os.environ, **_ENVIRONMENT},
                capture_output=True,
                text=True,
                timeout=_MOST_S,
                check=False,
            )
        except subprocess.TimeoutExpired:
            return Outcome(typed, 124, error=f"it took more than {_MOST_S} s")
        plots = _collect(folder, plots_folder)
        error = (done.stderr.strip().splitlines() or [""])[-1] if done.returncode else ""
        return Outcome(typed, done.returncode, _document(folder / "rows.json"), done.stdout, error, plots)


def _draws(command: Command) -> bool:
    source = command.path.read_text()
    return "arguments.parser(" in source or '"--output"' in source


def _document(path: Path) -> Any:
    """Return what the benchmark wrote, if it is of the common shape."""
    document = json.loads(path.read_text()) if path.exists() else None
    return document if isinstance(document, dict) and "tables" in document else None


def _collect(folder: Path, plots_folder: Path) -> list[str]:
    plots_folder.mkdir(parents=True, exist_ok=True)
    found = sorted(folder.glob("*.png"))
    for path in found:
        shutil.copyfile(path, plots_folder / path.name)
    return [path.name for path in found]


def _leave_only(plots_folder: Path, wanted: set[str]) -> None:
    for path in plots_folder.glob("*.png"):
        if path.name not in wanted:
            path.unlink()


def _keep(name: str, outcome: Outcome) -> None:
    _KEPT.mkdir(exist_ok=True)
    (_KEPT / f"{name}.json").write_text(json.dumps(asdict(outcome), indent=1))


def _kept(command: Command) -> Outcome:
    path = _KEPT / f"{command.name}.json"
    if not path.exists():
        return Outcome(f"python benchmarks/{command.path.name}", None, error="it was not run")
    return Outcome(**json.loads(path.read_text()))


def _rows(outcome: Outcome) -> Any:
    return outcome.document["rows"] if outcome.document else None


def _machine() -> str:
    return f"{os.cpu_count()} CPU cores ({platform.machine()}), {platform.system()}, torch {torch.__version__}"


if __name__ == "__main__":
    sys.exit(main())
