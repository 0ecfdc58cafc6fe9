"""Tables as text: for a terminal, which are Markdown too."""

from __future__ import annotations

from collections.abc import Sequence


def rendered(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a Markdown table, a line per row: the first column aligned to the left, the others to the right."""
    lines = [list(heads), *(list(row) for row in rows)]
    cells = [[cell.replace("|", "\\|") for cell in line] for line in lines]
    widths = [max(3, *(len(line[column]) for line in cells)) for column in range(len(heads))]
    rules = ["-" * width if column == 0 else "-" * (width - 1) + ":" for column, width in enumerate(widths)]
    shown = [_line(cells[0], widths), f"| {' | '.join(rules)} |", *(_line(line, widths) for line in cells[1:])]
    return "\n".join(shown)


def _line(cells: Sequence[str], widths: Sequence[int]) -> str:
    padded = [
        cell.ljust(width) if column == 0 else cell.rjust(width)
        for column, (cell, width) in enumerate(zip(cells, widths, strict=True))
    ]
    return f"| {' | '.join(padded)} |"
