"""Measure what pauses for compute cost a connection: calls over emulated links, with pauses between transfers.

    python benchmarks/warm_connections.py --check
    python benchmarks/warm_connections.py --through direct nginx --way HTTP --output DIR
    python benchmarks/warm_connections.py --case 40/20/100:128/256 --compute 0.8

A TCP connection that sends nothing for longer than a fraction of a second begins its next transfer slowly. Each
case is a link (round trip, rates up and down) and the KB that a call moves up and down, raw; the worker takes
`--compute` seconds a call. Shown is the call's time beyond the compute, against the ideal: round trip + bytes /
bandwidth. Reverse proxies stand at the worker's end of the link, as they do in front of rented GPUs; one that is
not installed is left out.

WebSocket      this package's transport, warmed both ways while the worker computes
HTTP           its HTTP exchanges, used where a WebSocket is refused
requests       the same frames by a `requests.Session`, whose connection is kept alive
new connection the same frames by `requests.post`, a connection a call

The last two are measured without a proxy. `--check` exits with 1 unless the first case takes at most 1.15 times
the ideal over a WebSocket, directly and through each proxy, and the second 1.2 times; these bounds are for the
default cases over a TUN link, with at least 0.8 s of compute.
"""

from __future__ import annotations

import argparse
import re
import statistics
import sys
from collections.abc import Callable, Generator, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, Any

import requests
import torch
from tqdm import tqdm

sys.path.insert(0, str(Path(__file__).parent))
import arguments
import plots
from carriers import CARRIERS, WEBSOCKET
from comfy_gpu_offload.client.session import Session
from comfy_gpu_offload.io.frame import EncodedFrame
from comfy_gpu_offload.transport.base import Check, Route, Timeouts, Transport
from comfy_gpu_offload.transport.http_transport import MEDIA_TYPE
from comfy_gpu_offload.tuning.link import Link
from echo_worker import echo_worker
from emulated_link import best_kind, described, emulated
from proxied import DIRECT, NAMES, available, proxied, skipped
from results import Bound, Results, Table, conclude

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_BOUNDS = {"50/100/100:512/512": 1.15, "40/20/100:128/256": 1.2}
_HELD_COMPUTE_S = 0.8
_COLUMNS = {
    "link and payload": "case",
    "through": "through",
    "way": "way",
    "ideal ms": "ideal_s 1e3 .0f",
    "network ms": "network_s 1e3 .0f",
    "lower quartile": "lower_s 1e3 .0f",
    "upper": "upper_s 1e3 .0f",
    "network / ideal": "ratio .2f",
}
# Calls until a connection's window has grown, or has shrunk as far as it will.
_SETTLING = 4


class RequestsTransport:
    """A `transport.base.Transport` that sends the same frames by `requests`."""

    carries_cancel = True

    def __init__(self, url: str, *, keeps_alive: bool) -> None:
        self._url = self.peer = url
        self._session = requests.Session() if keeps_alive else None

    def exchange(
        self, route: Route, frame: EncodedFrame, timeouts: Timeouts, check: Check | None = None
    ) -> memoryview:
        post = requests.post if self._session is None else self._session.post
        reply = post(
            f"{self._url}/v1/{route}",
            data=bytes(frame.joined()),
            headers={"Content-Type": MEDIA_TYPE},
            timeout=timeouts.exchange_s,
        )
        return memoryview(bytearray(reply.content))

    def stream(
        self, route: Route, frame: EncodedFrame, timeouts: Timeouts, check: Check | None = None
    ) -> Generator[memoryview]:
        raise NotImplementedError

    def close(self) -> None:
        if self._session is not None:
            self._session.close()


_WAYS: dict[str, Callable[[str], Transport]] = {
    **CARRIERS,
    "requests": lambda url: RequestsTransport(url, keeps_alive=True),
    "new connection": lambda url: RequestsTransport(url, keeps_alive=False),
}


@dataclass(frozen=True)
class Case:
    """A link, and the bytes of a call's tensors up and down."""

    link: Link
    up: int
    down: int

    @classmethod
    def of(cls, text: str) -> Case:
        """Return the case ``MS/MBIT/MBIT:KB/KB``.

        Raises:
            argparse.ArgumentTypeError: it is of another form, or KB down is no multiple of KB up.
        """
        link, _, sizes = text.partition(":")
        found = re.fullmatch(r"([1-9][0-9]{0,6})/([0-9]{1,7})", sizes)
        if found is None or int(found[2]) % int(found[1]):
            raise argparse.ArgumentTypeError(
                f"{text!r}: give MS/MBIT/MBIT:KB/KB, as 40/20/100:512/512; KB down is a multiple of KB up"
            )
        return cls(arguments.link(link), *(int(size) * 1024 for size in found.groups()))

    def __str__(self) -> str:
        return f"{self.link}, {self.up // 1024} + {self.down // 1024} KB"


@dataclass(frozen=True)
class Row:
    """The figures of one carrier over one link: network seconds of a call with quartiles, bytes of frames."""

    case: str
    through: str
    way: str
    calls: int
    bytes_up: int
    bytes_down: int
    ideal_s: float
    network_s: float
    lower_s: float
    upper_s: float
    ratio: float


def main() -> int:
    """Measures and prints the table; with `--check`, exit status 1 where a bound is not held."""
    options = _options()
    rows = list(_measured(options.case, options))
    results = Results(
        "warm_connections",
        rows,
        [Table.of(f"A call with {options.compute:g} s of compute, its time beyond that", _COLUMNS, rows)],
        _bounds(rows, options.compute),
        {"warm_connections": lambda: _figure(rows)},
        [f"{described(options.kind)}; congestion control: {options.congestion}", *skipped(options.through)],
    )
    return conclude(results, options, check=options.check)


def _bounds(rows: list[Row], compute_s: float) -> list[Bound]:
    held = {str(Case.of(text)): most for text, most in _BOUNDS.items()}
    return [
        Bound.at_most(f"{row.case}, {row.through}, {row.way}, network / ideal", row.ratio, held[row.case])
        for row in rows
        if row.way == WEBSOCKET and row.case in held and compute_s >= _HELD_COMPUTE_S
    ]


def _options() -> argparse.Namespace:
    parser = arguments.parser(__doc__, seed_of="the payloads")
    parser.add_argument(
        "--case",
        type=Case.of,
        nargs="+",
        default=list(map(Case.of, _BOUNDS)),
        help=f"MS/MBIT/MBIT:KB/KB (default: {' '.join(_BOUNDS)})",
    )
    parser.add_argument("--kind", choices=["tun", "threads"], default=best_kind(), help="of link emulation")
    parser.add_argument("--congestion", default="cubic", help="control of it, at both ends (default: %(default)s)")
    parser.add_argument(
        "--compute", type=arguments.seconds, default=0.8, help="seconds of a call (default: %(default)s)"
    )
    parser.add_argument(
        "--calls", type=arguments.positive, default=8, help="that count, of each way (default: %(default)s)"
    )
    parser.add_argument("--through", nargs="+", choices=NAMES, default=list(NAMES), help="proxies (default: all)")
    parser.add_argument("--way", nargs="+", choices=_WAYS, default=list(_WAYS))
    parser.add_argument("--check", action="store_true", help="exit with 1 where a bound is not held")
    return parser.parse_args()


def _measured(cases: list[Case], options: argparse.Namespace) -> Iterator[Row]:
    ways = [
        (through, way)
        for through in available(options.through)
        for way in options.way
        if through == DIRECT or way in CARRIERS
    ]
    with ExitStack() as stack:
        port = int(stack.enter_context(echo_worker(options.compute)).rsplit(":", 1)[1])
        fronts = {name: stack.enter_context(proxied(name, port)) for name, _ in ways}
        total = len(cases) * len(ways) * (options.calls + _SETTLING)
        progress = stack.enter_context(arguments.progress(total=total, unit="call"))
        for case in cases:
            for through, way in ways:
                progress.set_description(f"{case}, {through}, {way}")
                with emulated(case.link, fronts[through], options.kind, options.congestion) as near:
                    yield Row(
                        case=str(case),
                        through=through,
                        way=way,
                        **_figures(case, _WAYS[way](f"http://127.0.0.1:{near}"), progress, options),
                    )


def _figures(case: Case, transport: Transport, progress: tqdm, options: argparse.Namespace) -> dict[str, Any]:
    generator = torch.Generator().manual_seed(options.seed)
    latent = torch.randint(0, 256, (case.up,), dtype=torch.uint8, generator=generator)
    times = []
    with Session(transport) as session:
        model = session.model("echo")
        for call in range(options.calls + _SETTLING):
            again = latent.clone()
            again[0] = call  # never the same one twice
            started = perf_counter()
            model(again, copies=case.down // case.up)
            times.append(perf_counter() - started - options.compute)
            progress.update()
        last = model.timings[-1]
    counted = times[_SETTLING:]
    low, network_s, high = statistics.quantiles(counted, n=4, method="inclusive")
    ideal_s = case.link.ideal_s(last.bytes_up, last.bytes_down)
    return {
        "calls": len(counted),
        "bytes_up": last.bytes_up,
        "bytes_down": last.bytes_down,
        "ideal_s": ideal_s,
        "network_s": network_s,
        "lower_s": low,
        "upper_s": high,
        "ratio": network_s / ideal_s,
    }


def _figure(rows: list[Row]) -> Figure:
    cases = list(dict.fromkeys(row.case for row in rows))
    figure, axes = plots.panels(1, len(cases), width=4.8, height=2.8)
    for axis, case in zip(axes, cases, strict=True):
        shown = [row for row in rows if row.case == case]
        values = [row.network_s * 1e3 for row in shown]
        names = [row.way if row.through == DIRECT else f"{row.way}, {row.through}" for row in shown]
        plots.bars(axis, names, values, labels=[f"{row.ratio:.2f}" for row in shown])
        axis.axvline(1e3 * shown[0].ideal_s, color=plots.RED, label="round trip + bytes / bandwidth")
        axis.set(title=case, xlabel="ms of a call beyond its compute (at the bars: times the line)")
    plots.legend(figure, axes[0])
    return figure


if __name__ == "__main__":
    sys.exit(main())
