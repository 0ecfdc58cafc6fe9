"""The tables, curves and pictures of quality.py."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch

import plots
from results import Table

_AMPLIFIED = 10


@dataclass(frozen=True)
class Row:
    """The figures of one codec with one sampler and number of steps.

    Attributes:
        equal: whether the final latents equal those of the run without coding, bit for bit.
        bits: the bits per element that were sent, both ways.
        relative_l2: the error of the final latents.
        psnr_db: None if the pictures are equal.
    """

    sampler: str
    steps: int
    codec: str
    lossless: bool
    equal: bool
    bits: float
    relative_l2: float
    psnr_db: float | None
    ssim: float
    accuracy: float


def tables(rows: list[Row]) -> list[Table]:
    """Return two tables: bits and errors of latents, and errors of pictures."""
    return [
        _table("Bits that crossed for each element, both ways, and how far the final latents are off", rows, _wire),
        _table("PSNR in dB, SSIM, and the share of pictures read as their labels", rows, _picture),
    ]


def _table(title: str, rows: list[Row], cell: Callable[[Row], str]) -> Table:
    columns = list(dict.fromkeys((row.sampler, row.steps) for row in rows))
    ways = list(dict.fromkeys(row.codec for row in rows))
    by_place = {(row.codec, row.sampler, row.steps): cell(row) for row in rows}
    cells = [[way, *(by_place[way, *column] for column in columns)] for way in ways]
    return Table(title, ["", *(f"{sampler}, {steps} steps" for sampler, steps in columns)], cells)


def _wire(row: Row) -> str:
    return f"{row.bits:.2f}, " + ("0" if row.equal else f"{row.relative_l2:.1%}")


def _picture(row: Row) -> str:
    likeness = "equal" if row.psnr_db is None else f"{row.psnr_db:.1f}, {row.ssim:.4f}"
    return f"{likeness}, {row.accuracy:.0%}"


def curves(rows: list[Row]) -> Any:
    """Draw PSNR, SSIM and the share read right against steps: a column per sampler, a line per codec."""
    names = list(dict.fromkeys(row.sampler for row in rows))
    lossy = [row for row in rows if not row.equal]
    figure, axes = plots.panels(3, len(names), width=2.6, height=2.0, share_y="row")
    for column, sampler in enumerate(names):
        panels = axes[column :: len(names)]
        for index, codec in enumerate(dict.fromkeys(row.codec for row in lossy)):
            of_it = [row for row in lossy if (row.sampler, row.codec) == (sampler, codec)]
            steps = [row.steps for row in of_it]
            # Dashes let both of two lines that coincide be seen.
            style = {
                "color": plots.COLOURS[index],
                "linestyle": ("-", (0, (3, 3)))[index % 2],
                "marker": "ox^s"[index % 4],
                "markersize": 4,
                "label": codec,
            }
            panels[0].plot(steps, [row.psnr_db for row in of_it], **style)
            panels[1].plot(steps, [row.ssim for row in of_it], **style)
            panels[2].plot(steps, [100 * row.accuracy for row in of_it], **style)
        plain = [row for row in rows if row.sampler == sampler and row.equal and row.codec == rows[0].codec]
        panels[2].plot(
            [row.steps for row in plain],
            [100 * row.accuracy for row in plain],
            "k--",
            linewidth=1,
            label="lossless",
        )
        panels[0].set(title=sampler)
        panels[2].set(xlabel="steps", ylim=(100 * min(row.accuracy for row in rows) - 5, 102))
        for panel in panels:
            panel.set_xticks(sorted({row.steps for row in rows}))
    for axis, label in zip(axes[:: len(names)], ("PSNR, dB", "SSIM", "read right, %"), strict=True):
        axis.set_ylabel(label)
    plots.legend(figure, axes[2 * len(names)], columns=5)
    return figure


def sheet(pictures: Mapping[tuple[str, int, str], torch.Tensor], steps: int) -> Any:
    """Draw the digits of each sampler, a row per codec, and their differences from the first row."""
    names = list(dict.fromkeys(sampler for sampler, _, _ in pictures))
    figure, axes = plots.panels(len(names), 2, width=4.4, height=2.4)
    for line, sampler in enumerate(names):
        rows = {codec: each for (of, count, codec), each in pictures.items() if (of, count) == (sampler, steps)}
        first = next(iter(rows.values()))
        shown = _grid(list(rows.values()))
        off = _grid([(_AMPLIFIED * (each - first)).clamp(-1, 1) for each in rows.values()])
        left, right = axes[2 * line : 2 * line + 2]
        left.imshow(shown.numpy(), cmap="gray_r", vmin=0, vmax=1)
        right.imshow(off.numpy(), cmap="RdBu_r", vmin=-1, vmax=1)
        left.set(title=f"{sampler}, {steps} steps")
        right.set(title=f"difference from the first row, times {_AMPLIFIED}")
        size = first.shape[-1]
        left.set_yticks([size * (index + 0.5) for index in range(len(rows))], list(rows))
        right.set_yticks([])
        for axis in (left, right):
            axis.set_xticks([])
            axis.spines[:].set_visible(False)
            axis.tick_params(length=0)
    return figure


def _grid(rows: list[torch.Tensor]) -> torch.Tensor:
    """Join rows of pictures, each `[N, H, W]`, to one picture `[rows * H, N * W]`."""
    return torch.cat([torch.cat(list(row), dim=1) for row in rows])
