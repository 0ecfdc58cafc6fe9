"""The results of a benchmark in a form common to all: printed, as JSON, and as plots.

    return conclude(
        Results(
            "call_overhead",
            rows,
            [Table.of("What a call costs", {"latent": "latent", "bare ms": "bare_ms .2f"}, rows)],
            [Bound.at_most("512 KB over loopback, times a bare socket", ratio, 2.5)],
            {"call_overhead": draw},
        ),
        options,
    )

`report.py` reads the JSON and needs to know nothing of a benchmark but its command.
"""

from __future__ import annotations

import argparse
import json
import platform
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, is_dataclass
from typing import Any

import torch

from plots import save
from table import rendered

NONE = "-"


@dataclass(frozen=True)
class Table:
    """A table of text.

    Attributes:
        title: what it shows, in a line, without a full stop; may be empty.
        heads: of the columns; the first is what the others are said of.
        cells: a list of text for each row.
    """

    title: str
    heads: list[str]
    cells: list[list[str]]

    @classmethod
    def of(cls, title: str, columns: Mapping[str, str], rows: Sequence[Any]) -> Table:
        """Return a table of rows, which are dicts or dataclasses.

        Args:
            title: as above.
            columns: for each head the row's key, and after a space how to format its value, e.g. ``"ratio .3f"``;
                before a factor to multiply by, ``"seconds 1e3 .2f"``. None is shown as a dash.
            rows: one for each line.
        """
        cells = [[_cell(row, column) for column in columns.values()] for row in map(_plain, rows)]
        return cls(title, list(columns), cells)

    def text(self) -> str:
        """Return the table as Markdown, which reads well in a terminal too."""
        shown = rendered(self.heads, self.cells)
        return f"{self.title}:\n\n{shown}" if self.title else shown


@dataclass(frozen=True)
class Bound:
    """Something that a benchmark holds, or does not.

    Attributes:
        what: in words, with the unit.
        measured: as text.
        bound: as text, e.g. ``"at least 98 %"``.
        held: whether it is.
    """

    what: str
    measured: str
    bound: str
    held: bool

    @classmethod
    def at_least(cls, what: str, measured: float, bound: float, form: str = ".2f") -> Bound:
        """Return a bound from below; `form` formats both numbers."""
        held = measured >= bound
        return cls(what, *_told_apart(measured, bound, form, "at least", held=held), held)

    @classmethod
    def at_most(cls, what: str, measured: float, bound: float, form: str = ".2f") -> Bound:
        """Return a bound from above."""
        held = measured <= bound
        return cls(what, *_told_apart(measured, bound, form, "at most", held=held), held)

    def text(self) -> str:
        """Return one line."""
        return f"{self.what}: {self.measured}, {self.bound}: {'held' if self.held else 'NOT HELD'}"


@dataclass(frozen=True)
class Results:
    """All that a run found.

    Attributes:
        benchmark: its file's name without `.py`.
        rows: dicts or dataclasses of plain values: what was measured.
        tables: what to show of it.
        bounds: what is held to.
        plots: by file name without `.png`, what makes a figure (see plots.py). Called only where one is wanted.
        notes: lines to be read with the tables: how links were emulated, what was left out and why.
    """

    benchmark: str
    rows: Sequence[Any]
    tables: Sequence[Table]
    bounds: Sequence[Bound] = ()
    plots: Mapping[str, Callable[[], Any]] = field(default_factory=dict)
    notes: Sequence[str] = ()

    @property
    def held(self) -> bool:
        """Return whether all bounds are held."""
        return all(bound.held for bound in self.bounds)


def conclude(results: Results, options: argparse.Namespace, *, check: bool = True) -> int:
    """Print the results and write what `--json` and `--output` ask for.

    Args:
        results: what was found.
        options: out of `arguments.parser`.
        check: whether a bound that is not held is a failure.

    Returns:
        the exit status: 1 where a bound is not held and `check` is set.
    """
    print("\n\n".join([*results.notes, *(table.text() for table in results.tables)]))
    if results.bounds:
        print()
    for bound in results.bounds:
        print(bound.text())
    if options.json:
        options.json.parent.mkdir(parents=True, exist_ok=True)
        options.json.write_text(json.dumps(document(results, options), indent=1) + "\n")
    if options.output:
        for name, draw in results.plots.items():
            save(draw(), options.output / f"{name}.png")
    return 0 if results.held or not check else 1


def document(results: Results, options: argparse.Namespace) -> dict[str, Any]:
    """Return the data that `--json` writes."""
    settings = {name: _json(value) for name, value in vars(options).items() if name not in {"json", "output"}}
    return {
        "benchmark": results.benchmark,
        "machine": {"cpu": platform.machine(), "system": platform.system(), "torch": torch.__version__},
        "options": {name: value for name, value in settings.items() if "token" not in name},
        "notes": list(results.notes),
        "rows": [_plain(row) for row in results.rows],
        "tables": [asdict(table) for table in results.tables],
        "bounds": [asdict(bound) for bound in results.bounds],
        "plots": [f"{name}.png" for name in results.plots],
    }


def _told_apart(measured: float, bound: float, form: str, how: str, *, held: bool) -> tuple[str, str]:
    """Both as text, in more digits where they would else look equal and are not."""
    if not held and f"{measured:{form}}" == f"{bound:{form}}":
        form = ".6g"
    return f"{measured:{form}}", f"{how} {bound:{form}}"


def _plain(row: Any) -> dict[str, Any]:
    return asdict(row) if is_dataclass(row) and not isinstance(row, type) else dict(row)


def _json(value: Any) -> Any:
    """Return an option's value as JSON has it: paths, links and the like as text."""
    if isinstance(value, list | tuple):
        return [_json(each) for each in value]
    return value if value is None or isinstance(value, bool | int | float) else str(value)


def _cell(row: Mapping[str, Any], column: str) -> str:
    key, *rest = column.split(" ")
    value = row[key]
    if value is None:
        return NONE
    form = rest.pop() if rest else ""
    return format(value * float(rest[0]) if rest else value, form)
