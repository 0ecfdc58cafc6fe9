"""Render docs/benchmarks.md: the template's prose with the figures that the benchmarks measured.

A line `{{name}}` of the template becomes the notes, tables, bounds and plots of that benchmark; `{{summary}}` says
which bounds were not held and what did not run at all.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from results import Table

_PLACE = re.compile(r"^\{\{(\w+)\}\}$", re.MULTILINE)


@dataclass(frozen=True)
class Outcome:
    """One command's run.

    Attributes:
        command: as it was typed, from the repository's root.
        status: its exit status; None where it was not run.
        document: what it wrote as JSON, if it is of the common shape (see results.py).
        output: what it printed: shown where there is no such document.
        error: the last line of its standard error, or why it was not run.
        plots: file names of the PNGs that it drew.
    """

    command: str
    status: int | None
    document: Mapping[str, Any] | None = None
    output: str = ""
    error: str = ""
    plots: list[str] = field(default_factory=list)


def rendered(template: str, outcomes: Mapping[str, Outcome], plots_folder: str) -> str:
    """Return the report. `plots_folder`: the plots' folder, relative to it.

    Raises:
        ValueError: the template and the outcomes do not name the same benchmarks, each once.
    """
    places = _PLACE.findall(template)
    if sorted(places) != sorted(["summary", *outcomes]):
        raise ValueError(f"the template has places for {places}, and there are {list(outcomes)}")
    texts = {name: _section(outcome, plots_folder) for name, outcome in outcomes.items()}
    texts["summary"] = _summary(outcomes)
    return _PLACE.sub(lambda place: texts[place[1]], template)


def failures(outcome: Outcome) -> list[str]:
    """Return a line for each bound that was not held, or one for a run that failed otherwise."""
    return _not_held(outcome) or ([f"exit status {outcome.status}"] if outcome.status else [])


def _summary(outcomes: Mapping[str, Outcome]) -> str:
    missing = [name for name, outcome in outcomes.items() if outcome.status is None]
    failed = [name for name, outcome in outcomes.items() if outcome.status and not _not_held(outcome)]
    broken = [f"- `{name}`: {line}" for name, outcome in outcomes.items() for line in _not_held(outcome)]
    count = sum(len(outcome.document["bounds"]) for outcome in outcomes.values() if outcome.document)
    parts = []
    if broken:
        parts.append("**Bounds that this run did not hold**, on a machine that may have had other work:\n")
        parts += broken
    else:
        parts.append(f"All {count} bounds that the benchmarks state were held in this run.")
    parts += [f"\n**`{name}` failed**: see its section." for name in failed]
    if missing:
        parts.append(f"\nWithout figures: {', '.join(f'`{name}` ({outcomes[name].error})' for name in missing)}.")
    return "\n".join(parts)


def _not_held(outcome: Outcome) -> list[str]:
    bounds = outcome.document["bounds"] if outcome.document else []
    return [f"{bound['what']}: {bound['measured']}, {bound['bound']}" for bound in bounds if not bound["held"]]


def _section(outcome: Outcome, plots_folder: str) -> str:
    if outcome.status is None:
        return f"`{outcome.command}`: {outcome.error}."
    parts = [f"`{outcome.command}`"]
    if outcome.document is not None:
        parts += _of_document(outcome.document)
    elif outcome.output.strip():
        parts.append(f"```\n{outcome.output.strip()}\n```")
    if outcome.status and not _not_held(outcome):
        last = f": {outcome.error}" if outcome.error else ""
        parts.append(f"**This run failed**, exit status {outcome.status}{last}")
    parts += [f"![{_alt(plot)}]({plots_folder}/{plot})" for plot in outcome.plots]
    return "\n\n".join(parts)


def _of_document(document: Mapping[str, Any]) -> list[str]:
    parts = [f"{note[0].upper()}{note[1:].rstrip('.')}." for note in document["notes"] if note]
    parts += [Table(**table).text() for table in document["tables"]]
    if document["bounds"]:
        parts.append("\n".join(_bound(bound) for bound in document["bounds"]))
    return parts


def _bound(bound: Mapping[str, Any]) -> str:
    verdict = "held" if bound["held"] else "**not held**"
    return f"- {bound['what']}: {bound['measured']}, {bound['bound']}: {verdict}"


def _alt(plot: str) -> str:
    return plot.removesuffix(".png").replace("_", " ")
