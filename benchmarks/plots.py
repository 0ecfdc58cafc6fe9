"""The look of all plots. matplotlib is imported only when something is drawn: the `bench` extra has it."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Paul Tol's bright scheme, which people who see few colours tell apart: https://personal.sron.nl/~pault/
BLUE, RED, GREEN, YELLOW, CYAN, PURPLE, GREY = (
    "#4477aa",
    "#ee6677",
    "#228833",
    "#ccbb44",
    "#66ccee",
    "#aa3377",
    "#bbbbbb",
)
COLOURS = (BLUE, RED, GREEN, YELLOW, CYAN, PURPLE, GREY)
_DPI = 100
_PALETTE = 256
_STYLE = {
    "axes.labelsize": 9,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.titlesize": 10,
    "legend.fontsize": 8,
    "legend.frameon": False,
    "xtick.labelsize": 8,
    "ytick.labelsize": 8,
}


def panels(
    lines: int, columns: int, *, width: float = 4.2, height: float = 3.0, share_y: bool | str = False
) -> tuple[Figure, list[Axes]]:
    """Return a figure of so many panels, each of that size in inches, and its axes in reading order."""
    import matplotlib as mpl  # noqa: PLC0415
    from matplotlib.figure import Figure  # noqa: PLC0415  # not pyplot: that looks for a display

    mpl.rcParams.update(_STYLE)
    figure = Figure(figsize=(width * columns, height * lines), layout="constrained")
    grid: Any = figure.subplots(lines, columns, squeeze=False, sharey=share_y)
    return figure, list(grid.flat)


def bars(
    axis: Axes,
    names: Sequence[str],
    values: Sequence[float],
    *,
    colours: Sequence[str] | str = BLUE,
    labels: Sequence[str] | None = None,
) -> None:
    """Horizontal bars, the first name on top; `labels` stand at their ends."""
    drawn = axis.barh(range(len(names)), list(values), color=colours)
    axis.set_yticks(range(len(names)), names)
    axis.invert_yaxis()
    if labels is not None:
        behind = {"facecolor": "white", "edgecolor": "none", "pad": 0.5}
        axis.bar_label(drawn, labels, fontsize=7, padding=3, bbox=behind, zorder=3)
        axis.margins(x=0.22)


def grouped(axis: Axes, names: Sequence[str], groups: dict[str, Sequence[float | None]]) -> None:
    """For each name a group of upright bars, one of each colour; None leaves its place empty."""
    width = 0.8 / len(groups)
    for index, (label, values) in enumerate(groups.items()):
        places = [place + (index - (len(groups) - 1) / 2) * width for place in range(len(names))]
        heights = [0.0 if value is None else value for value in values]
        axis.bar(places, heights, width, label=label, color=COLOURS[index % len(COLOURS)])
    axis.set_xticks(range(len(names)), names)


def legend(figure: Figure, axis: Axes, *, columns: int = 4) -> None:
    """Add one legend of that axis' labels to the whole figure, below it, where it hides nothing."""
    handles, labels = axis.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=min(columns, len(labels)))


def save(figure: Figure, path: Path) -> None:
    """Write a PNG of few colours, which is a small file, and create its folder if it is missing."""
    from PIL import Image  # noqa: PLC0415

    path.parent.mkdir(parents=True, exist_ok=True)
    drawn = io.BytesIO()
    figure.savefig(drawn, dpi=_DPI, format="png")
    with Image.open(drawn) as picture:
        few = picture.convert("RGB").quantize(_PALETTE, dither=Image.Dither.NONE)
    few.save(path, optimize=True)
