"""Measure the cost of a forward call beyond the model, against a bare socket that carries the same bytes.

    python benchmarks/call_overhead.py

`bare` and `http` are in socket_echo.py, and take turns with calls, one by one, so that the machine's moods meet
all; medians are compared. `exchange` is a call's part from the first byte sent to the reply's last one received,
the worker's work included; `call` is the whole of it, from tensors to tensors.
"""

from __future__ import annotations

import itertools
import statistics
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).parent))
import arguments
import comfy_gpu_offload
import plots
from comfy_gpu_offload.client.timings import CallTimings
from echo_worker import echo_worker
from results import Bound, Results, Table, conclude
from socket_echo import bare_exchange, http_exchange

_SHAPES = {"1 KB": (1, 16, 4, 8), "512 KB": (1, 16, 128, 128), "4 MB": (8, 16, 128, 128)}
_BOUNDS = {"512 KB": 2.5, "4 MB": 2.0}
_PARTS = ("pack", "encode", "wire", "decode")
_WARMING = 10


@dataclass(frozen=True)
class Row:
    """Medians for one size, in milliseconds, and the ratios to the bare exchange."""

    latent: str
    bare_ms: float
    http_ms: float
    exchange_ms: float
    call_ms: float
    exchange_ratio: float
    ratio: float
    pack_ms: float
    encode_ms: float
    wire_ms: float
    decode_ms: float


def main() -> int:
    """Print the table; exit status 1 if a bound is not held."""
    parser = arguments.parser(__doc__, seed_of="the latents")
    parser.add_argument(
        "--calls", type=arguments.positive, default=300, help="of each kind and size (default: %(default)s)"
    )
    options = parser.parse_args()
    if options.calls < 1:
        parser.error("at least one call")
    torch.manual_seed(options.seed)
    rows = list(_measure(options.calls))
    bounds = [
        Bound.at_most(f"{row.latent} each way, {what}, times a bare exchange", ratio, _BOUNDS[row.latent])
        for row in rows
        if row.latent in _BOUNDS
        for what, ratio in (("first byte to last", row.exchange_ratio), ("the whole call", row.ratio))
    ]
    plotted = {"call_overhead": lambda: _figure(rows)}
    return conclude(Results("call_overhead", rows, [_table(rows)], bounds, plotted), options)


def _table(rows: list[Row]) -> Table:
    columns = {
        "latent": "latent",
        "bare": "bare_ms .3f",
        "http": "http_ms .3f",
        "exchange": "exchange_ms .3f",
        "call": "call_ms .3f",
        "exchange / bare": "exchange_ratio .2f",
        "call / bare": "ratio .2f",
        **{f"of it {part}": f"{part}_ms .3f" for part in _PARTS},
    }
    return Table.of("Milliseconds for the same bytes there and back", columns, rows)


def _measure(calls: int) -> Iterator[Row]:
    with ExitStack() as stack:
        session = stack.enter_context(comfy_gpu_offload.connect(stack.enter_context(echo_worker())))
        model = session.model("echo")
        sigma, count = torch.ones(1), itertools.count()
        for name, shape in _SHAPES.items():
            latent = torch.randn(shape).to(torch.bfloat16)
            bits = latent.view(torch.int16).view(-1)
            with bare_exchange(latent.nbytes) as bare, http_exchange(latent.nbytes) as http:
                kinds = {"bare": bare, "http": http, "call": lambda latent=latent: model(latent, sigma)}
                times: dict[str, list[float]] = {kind: [] for kind in kinds}
                for _ in arguments.progress(range(_WARMING + calls), desc=name, unit="call"):
                    for kind, exchange in kinds.items():
                        times[kind].append(_timed(exchange, bits, next(count)))
                yield _row(
                    name, {kind: all_[_WARMING:] for kind, all_ in times.items()}, list(model.timings)[-calls:]
                )


def _row(name: str, times: dict[str, list[float]], timings: list[CallTimings]) -> Row:
    medians = {kind: 1e3 * statistics.median(values) for kind, values in times.items()}
    parts = {
        part: 1e3 * statistics.median(getattr(timing, f"{part}_s") for timing in timings)
        for part in ("exchange", *_PARTS)
    }
    return Row(
        name,
        medians["bare"],
        medians["http"],
        parts["exchange"],
        medians["call"],
        parts["exchange"] / medians["bare"],
        medians["call"] / medians["bare"],
        *(parts[part] for part in _PARTS),
    )


def _timed(exchange: Callable[[], object], bits: torch.Tensor, number: int) -> float:
    """Seconds; with another latent each time, as a sampler has."""
    bits[0] = number % 2**15
    started = perf_counter()
    exchange()
    return perf_counter() - started


def _figure(rows: list[Row]) -> Any:
    figure, axes = plots.panels(1, len(rows), width=2.8, height=2.2)
    kinds = ("bare", "http", "exchange", "call")
    for axis, row in zip(axes, rows, strict=True):
        values = [getattr(row, f"{kind}_ms") for kind in kinds]
        colours = [plots.GREY, plots.GREY, plots.CYAN, plots.BLUE]
        plots.bars(axis, kinds, values, colours=colours, labels=[f"{value / row.bare_ms:.2f}" for value in values])
        axis.set(title=f"{row.latent} each way", xlabel="ms")
    return figure


if __name__ == "__main__":
    sys.exit(main())
