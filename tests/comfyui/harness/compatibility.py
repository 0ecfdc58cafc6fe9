"""The page of features by architecture, made of the findings of scripts/matrix/run.py."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from .companions import ENCODERS, VAES

Outcomes = Mapping[str, str]

_KINDS = {"identical": "=", "within": "≈", "refused": "R", "failed": "not yet"}
_NOTHING = "-"
_COMPANIONS = {"CLIP": ENCODERS, "VAE": VAES}
_HEAD = """# What works with which model

This page compares remote models with local ones. It has every architecture in ComfyUI's `comfy.supported_models`
of which a small model with random weights can be made that ComfyUI recognises. Each was sampled by ComfyUI's own
KSampler with the model loaded locally, and with the model at a worker: on ComfyUI {releases}, in one process
on a CPU, two steps of `euler`, cfg 4. `make matrix` writes this page.

CLIP and VAE are the architecture's text encoder and VAE, from Remote CLIP Loader (Dual, Triple, Quadruple) and
Remote VAE Loader: their own class with small sizes and random weights, both prompts, and all four methods.

Each other cell shows the result of Remote Sampler with `each step`; if `whole loop` gives another result, it
follows after a stroke. KSampler with a remote model gives the result of `each step`.

| | |
| --- | --- |
| `=` | equals the local model bit for bit |
| `≈ N` | equals the local model within N standard deviations of the latent |
| `R` | refused by name, before or at the first call |
| `not yet` | fails in another way |
| `-` | nothing to compare: it has no effect, ComfyUI itself cannot do it with this model, or no small one is made |
"""


@dataclass(frozen=True)
class Found:
    """The findings on a release: a row for each architecture, the names of all, reasons for missing rows.

    Attributes:
        companions: by the column and the name of a text encoder or VAE, whether it is equal bit for bit.
    """

    release: str
    rows: Mapping[str, Mapping[str, Any]]
    known: tuple[str, ...]
    left_out: Mapping[str, str]
    companions: Mapping[str, Mapping[str, bool]] = field(default_factory=dict)

    @classmethod
    def of(cls, release: str, output: str) -> Found:
        """Read the findings from what the script printed."""
        entries = [json.loads(line) for line in output.splitlines() if line.startswith("{")]
        last = entries[-1]
        rows = {entry["architecture"]: entry for entry in entries[:-1]}
        return cls(release, rows, tuple(last["known"]), last["left out"])

    def has(self, architecture: str) -> bool:
        """Return whether it was sampled."""
        return "common" in self.rows.get(architecture, {})


def kind_of(outcome: str) -> str:
    """Return the first word of an outcome."""
    return outcome.partition(" ")[0].rstrip(":")


def mark(outcomes: Outcomes) -> str:
    """Return the mark of an outcome in a cell."""
    if "none" in outcomes or "stock" in outcomes:
        return _NOTHING
    marks = [_mark(outcome) for outcome in outcomes.values()]
    return marks[0] if len(set(marks)) == 1 else " / ".join(marks)


def _mark(outcome: str) -> str:
    kind = kind_of(outcome)
    return f"≈ {outcome.split()[1]}" if kind == "within" else _KINDS[kind]


def page(found: Iterable[Found]) -> str:
    """Return the page, from the findings on each release."""
    releases = list(found)
    head = _HEAD.format(releases=" and ".join(each.release for each in releases))
    parts = [head, *_features(releases), *_own(releases), *_refusals(releases), *_left_out(releases)]
    return "\n".join(parts).rstrip() + "\n"


def _names(releases: list[Found]) -> list[str]:
    """Return the names of what was sampled, in the order of the newest release."""
    names = dict.fromkeys(name for each in reversed(releases) for name in each.rows if each.has(name))
    return list(names)


def _row(releases: list[Found], name: str) -> Mapping[str, Any]:
    return next(each.rows[name] for each in reversed(releases) if each.has(name))


def _where(releases: list[Found], name: str) -> str:
    having = [each.release for each in releases if each.has(name)]
    return "" if len(having) == len(releases) else " and ".join(having)


def _features(releases: list[Found]) -> Iterator[str]:
    names = _names(releases)
    columns = list(_row(releases, names[0])["common"])
    yield "## Features\n"
    for media in dict.fromkeys(_row(releases, name)["media"] for name in names):
        yield f"### {media[0].upper()}{media[1:]}\n"
        yield f"| | {' | '.join([*columns, *_COMPANIONS])} | only in |"
        yield f"| --- |{' --- |' * (len(columns) + len(_COMPANIONS) + 1)}"
        for name in names:
            if _row(releases, name)["media"] == media:
                cells = [_cell(releases, name, "common", column) for column in columns]
                cells += [companion(releases, name, column) for column in _COMPANIONS]
                yield f"| {name} | {' | '.join(cells)} | {_where(releases, name)} |"
        yield ""


def companion(releases: list[Found], name: str, column: str) -> str:
    """Return the cell of an architecture's text encoder or VAE."""
    found = [each.companions.get(column, {}).get(_COMPANIONS[column].get(name, "")) for each in releases]
    known = [each for each in found if each is not None]
    return _NOTHING if not known else _KINDS["identical"] if all(known) else _KINDS["failed"]


def companions_of(encoders: Mapping[str, Any], vaes: Mapping[str, Any]) -> dict[str, dict[str, bool]]:
    """Return a release's `companions` of what scripts/encoders/run.py and scripts/vaes/run.py have found."""
    equal: dict[str, bool] = {}
    for case, found in encoders["families"].items():
        family = next((name for name in ENCODERS.values() if case.startswith(f"{name}, ")), None)
        if family is not None:
            equal[family] = equal.get(family, True) and found["equal"]
    methods = {name: all(same for same, _ in found.values()) for name, found in vaes["equal"].items()}
    return {"CLIP": equal, "VAE": methods}


def _own(releases: list[Found]) -> Iterator[str]:
    yield "## Conditioning of their own\n"
    yield "What an architecture's conditioning may hold besides text.\n"
    yield "| | conditioning | |"
    yield "| --- | --- | --- |"
    for name in _names(releases):
        own = [conditioning for each in releases if each.has(name) for conditioning in each.rows[name]["own"]]
        for conditioning in dict.fromkeys(own):
            yield f"| {name} | {conditioning} | {_cell(releases, name, 'own', conditioning)} |"
    yield ""


def _cell(releases: list[Found], name: str, group: str, column: str) -> str:
    """Return a cell, with the releases' names only where they differ."""
    having = [each for each in releases if each.has(name) and column in each.rows[name][group]]
    marks = {each.release: mark(each.rows[name][group][column]) for each in having}
    told = {release: each for release, each in marks.items() if each != _NOTHING}
    if len(set(told.values())) <= 1:
        return next(iter(told.values()), _NOTHING)
    return ", ".join(f"{release}: {each}" for release, each in marks.items())


def _refusals(releases: list[Found]) -> Iterator[str]:
    """Return one refusal of each kind, in its own words."""
    said: dict[tuple[str, str], str] = {}
    for each in releases:
        for name in filter(each.has, each.rows):
            for feature, outcomes in {**each.rows[name]["common"], **each.rows[name]["own"]}.items():
                for way, outcome in outcomes.items():
                    if kind_of(outcome) == "refused":
                        said.setdefault((feature, way), _reason(outcome))
    yield "## What is refused\n"
    yield "| | way | what is said |"
    yield "| --- | --- | --- |"
    for (feature, way), why in sorted(said.items()):
        yield f"| {feature} | {way} | {why} |"
    yield ""


def _reason(outcome: str) -> str:
    """Return the first thing named in a refusal."""
    lines = outcome.splitlines()
    named = next((line.strip().removeprefix("- ") for line in lines if line.strip().startswith("- ")), None)
    text = named or lines[0].split(": ", 2)[-1]
    return text.split(". ")[0].replace("|", "\\|")


def _left_out(releases: list[Found]) -> Iterator[str]:
    """Return the names that a release knows and that have no row."""
    yield "## Without a row\n"
    yield "| | |"
    yield "| --- | --- |"
    sampled = set(_names(releases))
    for name in dict.fromkeys(name for each in reversed(releases) for name in each.known):
        if name not in sampled:
            yield f"| {name} | {_why_not(releases, name)} |"


def _why_not(releases: list[Found], name: str) -> str:
    for each in reversed(releases):
        if why := each.left_out.get(name):
            return why
        row = each.rows.get(name, {})
        if "failed" in row:
            return "not yet: ComfyUI does not sample the small model that is made for it"
        if why := row.get("refused") or row.get("absent"):
            return str(why).replace("|", "\\|").splitlines()[0]
    return "not tried"
