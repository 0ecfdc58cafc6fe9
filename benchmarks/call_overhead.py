"""What a forward call costs beyond the model: against a bare socket that carries the same bytes both ways.

    python benchmarks/call_overhead.py

Four take turns in one run, so that the machine's moods meet all of them; medians are compared, and of each turn the
first exchanges are left out, which find cores asleep and caches cold. `bare` and `http` are in socket_echo.py;
`exchange` is a call's part from the first byte sent to the reply's last one received, the worker's work included;
`call` is the whole of it, from tensors to tensors. A turn is several exchanges rather than one, and a pause lies
between, because both ends of a call look out for the next one for up to 0.4 ms and would keep the others from the
cores.
"""

from __future__ import annotations

import itertools
import statistics
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter, sleep
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
_WARMING = 3
_PAUSE_S = 2e-3


@dataclass(frozen=True)
class Row:
    """Medians for one size, in milliseconds, and the ratios to the bare exchange."""

    latent: str
    bare_ms: float
    http_ms: float
    exchange_ms: float
    call_ms: float
    ratio: float
    pack_ms: float
    encode_ms: float
    wire_ms: float
    decode_ms: float


def main() -> int:
    """Prints the table; exit status 1 if a bound is not held."""
    parser = arguments.parser(__doc__, seed_of="the latents")
    parser.add_argument("--turns", type=int, default=60, help="of each kind and size (default: %(default)s)")
    parser.add_argument(
        "--calls", type=int, default=12, help=f"in a turn, the first {_WARMING} not counted (default: %(default)s)"
    )
    options = parser.parse_args()
    if options.turns < 1 or options.calls <= _WARMING:
        parser.error(f"at least one turn, and more than {_WARMING} calls in each")
    torch.manual_seed(options.seed)
    rows = list(_measure(options.turns, options.calls))
    bounds = [
        Bound.at_most(f"{row.latent} each way, times a bare exchange", row.ratio, _BOUNDS[row.latent])
        for row in rows
        if row.latent in _BOUNDS
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
        "call / bare": "ratio .2f",
        **{f"of it {part}": f"{part}_ms .3f" for part in _PARTS},
    }
    return Table.of("Milliseconds for the same bytes there and back", columns, rows)


def _measure(turns: int, calls: int) -> Iterator[Row]:
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
                timings: list[CallTimings] = []
                for _ in arguments.progress(range(turns), desc=name, unit="turn"):
                    for kind, exchange in kinds.items():
                        sleep(_PAUSE_S)
                        times[kind] += [_timed(exchange, bits, next(count)) for _ in range(calls)][_WARMING:]
                    timings += list(model.timings)[_WARMING - calls :]
                yield _row(name, times, timings)


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
