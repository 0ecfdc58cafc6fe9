"""The tables, bounds and plots of codecs.py."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import plots
from codec_measure import Row
from results import NONE, Bound, Table

_BF16, _F16 = "Gaussian BF16", "Gaussian F16"


def bounds(rows: list[Row]) -> list[Bound]:
    """Return the bounds on `planes` for the cases that were measured."""
    planes = {row.case: row for row in rows if row.way == "planes"}
    held = []
    if row := planes.get(_BF16):
        held += [
            Bound.at_least("bf16 noise by planes, share of the order-0 bound", row.of_bound or 0, 0.98, ".1%"),
            Bound.at_least("bf16 noise by planes, MB/s to encode", row.encode_mb_s, 400, ".0f"),
            Bound.at_least("bf16 noise by planes, MB/s to decode", row.decode_mb_s or 0, 800, ".0f"),
        ]
    if row := planes.get(_F16):
        held.append(
            Bound.at_least("fp16 noise by planes, share of the order-0 bound", row.of_bound or 0, 0.99, ".1%")
        )
    return held


def tables(rows: list[Row]) -> list[Table]:
    """Return tables of sizes, speeds and errors for each source of tensors."""
    shown = []
    for source in dict.fromkeys(row.source for row in rows):
        of_it = [row for row in rows if row.source == source]
        lossy = [row for row in of_it if row.relative_l2]
        title = f"{source[0].upper()}{source[1:]}"
        sizes = "the tensors' bytes over those stored (in brackets: the order-0 bound's bytes over those stored)"
        shown += [
            _table(f"{title}: {sizes}", of_it, _size),
            _table(f"{title}: MB/s to encode and to decode", of_it, _speed),
        ]
        if lossy:
            shown.append(_table(f"{title}: relative L2 error and largest error", lossy, _error))
    return shown


def _table(title: str, rows: list[Row], cell: Callable[[Row], str]) -> Table:
    cases = list(dict.fromkeys(row.case for row in rows))
    by_place = {(row.way, row.case): cell(row) for row in rows}
    ways = list(dict.fromkeys(row.way for row in rows))
    kilobytes = {row.case: f"{row.tensor_bytes / 1e3:.0f} KB" for row in rows}
    heads = ["", *(f"{case}, {kilobytes[case]}" for case in cases)]
    return Table(title, heads, [[way, *(by_place.get((way, case), NONE) for case in cases)] for way in ways])


def _size(row: Row) -> str:
    return f"{row.ratio:.3f}" + ("" if row.of_bound is None else f" ({row.of_bound:.1%})")


def _speed(row: Row) -> str:
    decode = NONE if row.decode_mb_s is None else f"{row.decode_mb_s:.0f}"
    return NONE if row.way == "raw" else f"{row.encode_mb_s:.0f}, {decode}"


def _error(row: Row) -> str:
    return f"{row.relative_l2:.2%}, {row.max_error:.2g}"


def sizes(rows: list[Row]) -> Any:
    """Draw a panel for each case: ratios, and the order-0 bound."""
    cases = list(dict.fromkeys((row.source, row.case) for row in rows))
    columns = min(3, len(cases))
    figure, axes = plots.panels(-(-len(cases) // columns), columns, width=3.4, height=3.2)
    for axis, case in zip(axes, cases, strict=False):
        ways = sorted((row for row in rows if (row.source, row.case) == case), key=lambda row: -row.ratio)
        plots.bars(
            axis,
            [row.way for row in ways],
            [row.ratio for row in ways],
            colours=[_colour(row) for row in ways],
            labels=[f"{row.ratio:.2f}" for row in ways],
        )
        bound = next((row.of_bound * row.stored_bytes for row in ways if row.of_bound is not None), None)
        if bound:
            axis.axvline(ways[0].tensor_bytes / bound, color="black", linewidth=0.8, linestyle="--")
        title = case[1] if case[0] == "generated" else "\n".join([*case[0].split(" "), case[1]])
        axis.set(title=title, xlabel="times smaller")
    for axis in axes[len(cases) :]:
        axis.remove()
    _key(figure, bound=True)
    return figure


def speeds(rows: list[Row]) -> Any:
    """To encode and to decode the first case, on a logarithmic scale."""
    of_it = [row for row in rows if row.case == rows[0].case and row.way != "raw"]
    figure, axes = plots.panels(1, 2, width=3.6, height=3.4)
    for axis, what in zip(axes, ("encode", "decode"), strict=True):
        given = [(row, getattr(row, f"{what}_mb_s")) for row in of_it]
        ways = sorted(((row, value) for row, value in given if value), key=lambda pair: -pair[1])
        plots.bars(
            axis,
            [row.way for row, _ in ways],
            [value for _, value in ways],
            colours=[_colour(row) for row, _ in ways],
            labels=[f"{value:.0f}" for _, value in ways],
        )
        axis.set_xscale("log")
        axis.set_xlim(right=8 * max(value for _, value in ways))
        axis.set(title=f"{what} {rows[0].case}", xlabel="MB/s, one thread")
    _key(figure, bound=False)
    return figure


def _colour(row: Row) -> str:
    if not row.ours:
        return plots.GREY
    return plots.RED if row.relative_l2 else plots.BLUE


def _key(figure: Any, *, bound: bool) -> None:
    from matplotlib.lines import Line2D  # noqa: PLC0415
    from matplotlib.patches import Patch  # noqa: PLC0415

    named = {"ours, lossless": plots.BLUE, "ours, lossy": plots.RED, "others, lossless": plots.GREY}
    handles: list[Any] = [Patch(color=colour, label=label) for label, colour in named.items()]
    if bound:
        handles.append(Line2D([], [], color="black", linewidth=0.8, linestyle="--", label="order-0 bound"))
    figure.legend(handles=handles, loc="outside lower center", ncols=len(handles))
