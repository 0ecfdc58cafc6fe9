"""Measure the cost of a forward call beyond the model, against a bare socket that carries the same bytes.

    python benchmarks/call_overhead.py

`bare` and `http` are in socket_echo.py, and take turns with calls over a WebSocket and by HTTP exchanges, one by
one, so that the machine's moods meet all; medians are compared. `exchange` is a call's part from the first byte
sent to the reply's last one received, the worker's work included; `call` is the whole of it, from tensors to
tensors. Exits with 1 unless a call over a WebSocket is at most that much dearer than one by HTTP exchanges: 0.5 ms
with 512 KB each way, 2 times with 4 MB, 1.5 times with 30 MB.
"""

from __future__ import annotations

import itertools
import statistics
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from time import perf_counter
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).parent))
import arguments
import plots
from carriers import CARRIERS, HTTP, WEBSOCKET
from comfy_gpu_offload.client.session import Session
from comfy_gpu_offload.client.timings import CallTimings
from echo_worker import echo_worker
from results import Bound, Results, Table, conclude
from socket_echo import bare_exchange, http_exchange

_SHAPES = {
    "1 KB": (1, 16, 4, 8),
    "64 KB": (1, 4, 64, 128),
    "512 KB": (1, 16, 128, 128),
    "4 MB": (8, 16, 128, 128),
    "30 MB": (60, 16, 128, 128),
}
_MOST_DEARER_MS = {"512 KB": 0.5}
_MOST_TIMES = {"4 MB": 2.0, "30 MB": 1.5}
_SHOWN = ("exchange", "call")
_PARTS = ("pack", "encode", "wire", "decode")
_WARMING = 10
# Of each kind and size, there and back.
_MOST_BYTES = 3 * 10**9


@dataclass(frozen=True)
class Row:
    """Medians for one size and carrier, in milliseconds, and the ratios to the bare exchange."""

    latent: str
    carrier: str
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
    torch.manual_seed(options.seed)
    rows = list(_measure(options.calls))
    plotted = {"call_overhead": lambda: _figure(rows)}
    return conclude(Results("call_overhead", rows, [_table(rows)], list(_bounds(rows)), plotted), options)


def _bounds(rows: list[Row]) -> Iterator[Bound]:
    calls = {(row.latent, row.carrier): row.call_ms for row in rows}
    for latent, most_ms in _MOST_DEARER_MS.items():
        dearer_ms = calls[latent, WEBSOCKET] - calls[latent, HTTP]
        yield Bound.at_most(f"{latent} each way, ms that a call over a WebSocket is dearer", dearer_ms, most_ms)
    for latent, most in _MOST_TIMES.items():
        ratio = calls[latent, WEBSOCKET] / calls[latent, HTTP]
        yield Bound.at_most(f"{latent} each way, a call over a WebSocket, times one by HTTP", ratio, most)


def _table(rows: list[Row]) -> Table:
    columns = {
        "latent": "latent",
        "carrier": "carrier",
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
        url = stack.enter_context(echo_worker())
        sessions = {name: stack.enter_context(Session(carrier(url))) for name, carrier in CARRIERS.items()}
        models = {name: session.model("echo") for name, session in sessions.items()}
        sigma, count = torch.ones(1), itertools.count()
        for name, shape in _SHAPES.items():
            latent = torch.randn(shape).to(torch.bfloat16)
            bits = latent.view(torch.int16).view(-1)
            counted = max(1, min(calls, _MOST_BYTES // (2 * latent.nbytes)))
            with bare_exchange(latent.nbytes) as bare, http_exchange(latent.nbytes) as http:
                kinds: dict[str, Callable[[], object]] = {"bare": bare, "http": http}
                kinds |= {each: partial(model, latent, sigma) for each, model in models.items()}
                times: dict[str, list[float]] = {kind: [] for kind in kinds}
                for _ in arguments.progress(range(_WARMING + counted), desc=name, unit="call"):
                    for kind, exchange in kinds.items():
                        times[kind].append(_timed(exchange, bits, next(count)))
            times = {kind: values[_WARMING:] for kind, values in times.items()}
            for carrier, model in models.items():
                yield _row(name, carrier, times, list(model.timings)[-counted:])


def _row(latent: str, carrier: str, times: dict[str, list[float]], timings: list[CallTimings]) -> Row:
    medians = {kind: 1e3 * statistics.median(values) for kind, values in times.items()}
    parts = {
        part: 1e3 * statistics.median(getattr(timing, f"{part}_s") for timing in timings)
        for part in ("exchange", *_PARTS)
    }
    return Row(
        latent,
        carrier,
        medians["bare"],
        medians["http"],
        parts["exchange"],
        medians[carrier],
        parts["exchange"] / medians["bare"],
        medians[carrier] / medians["bare"],
        *(parts[part] for part in _PARTS),
    )


def _timed(exchange: Callable[[], object], bits: torch.Tensor, number: int) -> float:
    """Seconds; with another latent each time, as a sampler has."""
    bits[0] = number % 2**15
    started = perf_counter()
    exchange()
    return perf_counter() - started


def _figure(rows: list[Row]) -> Any:
    figure, axes = plots.panels(1, len(_SHAPES), width=2.6, height=2.2)
    for axis, latent in zip(axes, _SHAPES, strict=True):
        shown = [row for row in rows if row.latent == latent]
        values = {"bare": shown[0].bare_ms, "http": shown[0].http_ms}
        values |= {f"{row.carrier}, {part}": getattr(row, f"{part}_ms") for row in shown for part in _SHOWN}
        colours = [plots.GREY, plots.GREY, *(plots.CYAN, plots.BLUE) * len(shown)]
        labels = [f"{value / shown[0].bare_ms:.2f}" for value in values.values()]
        plots.bars(axis, list(values), list(values.values()), colours=colours, labels=labels)
        axis.set(title=f"{latent} each way", xlabel="ms")
    return figure


if __name__ == "__main__":
    sys.exit(main())
