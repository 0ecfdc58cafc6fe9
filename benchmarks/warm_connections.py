"""What a pause of the GPU's costs the connection: calls over emulated links, with compute between the transfers.

    python benchmarks/warm_connections.py --check
    python benchmarks/warm_connections.py --case 40/20/100:128/256 --compute 0.8 --output DIR

A TCP connection that sends nothing for longer than a fraction of a second begins its next transfer slowly. Each
case is a link (round trip, rates up and down) and the KB that a call moves up and down, raw; the worker takes
`--compute` seconds a call. Shown is the call's time beyond the compute, against the ideal: round trip + bytes /
bandwidth.

kept warm      this package's transport, which trickles both ways while the worker computes
left idle      the same without the trickle
requests       the same frames by a `requests.Session`, whose connection is kept alive
new connection the same frames by `requests.post`, a connection a call

`--check` exits with 1 unless the first case, kept warm, takes at most 1.15 times the ideal, the second 1.5 times;
these bounds are for the default cases over a TUN link.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from collections.abc import Callable, Generator, Iterator
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from time import perf_counter

import requests
import torch
from tqdm import tqdm

sys.path.insert(0, str(Path(__file__).parent))
from comfy_gpu_offload.client.session import Session
from comfy_gpu_offload.io.frame import EncodedFrame
from comfy_gpu_offload.transport.base import Check, Route, Timeouts, Transport
from comfy_gpu_offload.transport.http import MEDIA_TYPE, HttpTransport
from echo_worker import echo_worker
from emulated_link import Link, best_kind, described, emulated
from table import rendered

_CASES = ("50/100/100:512/512", "40/20/100:128/256")
_BOUNDS = (1.15, 1.5)
# Calls until a connection's window has grown, or has shrunk as far as it will.
_SETTLING = 4


class RequestsTransport:
    """The same frames by `requests`: see `transport.base.Transport`."""

    carries_cancel = True

    def __init__(self, url: str, *, keeps_alive: bool) -> None:
        self._url = url
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
    "kept warm": lambda url: HttpTransport(url, keep_warm=True),
    "left idle": HttpTransport,
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
        """``MS/MBIT/MBIT:KB/KB``; the way down a multiple of the way up."""
        link, _, sizes = text.partition(":")
        up, down = (int(part) * 1024 for part in sizes.split("/"))
        if not up or down % up:
            raise SystemExit(f"--case {text}: KB down is a multiple of KB up")
        return cls(Link.of(link), up, down)

    def __str__(self) -> str:
        return f"{self.link}, {self.up // 1024} + {self.down // 1024} KB"


@dataclass(frozen=True)
class Row:
    """One way over one link: network seconds of a call, and the quartiles; bytes of whole frames."""

    case: str
    way: str
    calls: int
    bytes_up: int
    bytes_down: int
    ideal_s: float
    network_s: float
    quartiles_s: tuple[float, float]
    ratio: float


def main() -> int:
    """Measures, prints the table; with `--check`, exit status 1 if a bound is not held."""
    options = _options()
    cases = [Case.of(text) for text in options.case or _CASES]
    rows = list(_measured(cases, options))
    print(f"A call with {options.compute:g} s of compute, its time beyond that; {described(options.kind)}")
    _print(rows)
    document = {"links": options.kind, "compute_s": options.compute, "rows": [asdict(row) for row in rows]}
    if options.json:
        options.json.write_text(json.dumps(document, indent=1))
    if options.output:
        options.output.mkdir(parents=True, exist_ok=True)
        _plot(rows, options.output / "warm_connections.png")
    held = _holds([row.ratio for row in rows if row.way == "kept warm"])
    bounds = ", ".join(f"{bound} x ideal" for bound in _BOUNDS)
    print(f"kept warm, at most {bounds}: {'held' if held else 'NOT HELD'}")
    return 1 if options.check and not held else 0


def _holds(ratios: list[float]) -> bool:
    return len(ratios) == len(_BOUNDS) and all(r <= bound for r, bound in zip(ratios, _BOUNDS, strict=True))


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--case", action="append", help="MS/MBIT/MBIT:KB/KB; repeat for more")
    parser.add_argument("--kind", choices=["tun", "threads"], default=best_kind(), help="of link emulation")
    parser.add_argument("--compute", type=float, default=0.8, help="seconds of a call (default: %(default)s)")
    parser.add_argument("--calls", type=int, default=8, help="that count, of each way (default: %(default)s)")
    parser.add_argument("--way", nargs="+", choices=_WAYS, default=list(_WAYS))
    parser.add_argument("--check", action="store_true", help="exit with 1 where a bound is not held")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the rows here")
    parser.add_argument("--output", type=Path, metavar="DIR", help="where to write the plot (PNG)")
    return parser.parse_args()


def _measured(cases: list[Case], options: argparse.Namespace) -> Iterator[Row]:
    total = len(cases) * len(options.way) * (options.calls + _SETTLING)
    with ExitStack() as stack:
        port = int(stack.enter_context(echo_worker(options.compute)).rsplit(":", 1)[1])
        progress = stack.enter_context(tqdm(total=total, leave=False, unit="call"))
        for case in cases:
            for way in options.way:
                progress.set_description(f"{case}, {way}")
                with emulated(case.link, port, options.kind) as near:
                    yield _row(case, way, near, progress, options)


def _row(case: Case, way: str, port: int, progress: tqdm, options: argparse.Namespace) -> Row:
    generator = torch.Generator().manual_seed(options.seed)
    latent = torch.randint(0, 256, (case.up,), dtype=torch.uint8, generator=generator)
    times = []
    with Session(_WAYS[way](f"http://127.0.0.1:{port}")) as session:
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
    return Row(
        case=str(case),
        way=way,
        calls=len(counted),
        bytes_up=last.bytes_up,
        bytes_down=last.bytes_down,
        ideal_s=ideal_s,
        network_s=network_s,
        quartiles_s=(low, high),
        ratio=network_s / ideal_s,
    )


def _print(rows: list[Row]) -> None:
    heads = ["link and payload", "way", "ideal ms", "network ms", "quartiles", "network / ideal"]
    cells = [
        [
            row.case,
            row.way,
            f"{row.ideal_s * 1e3:.0f}",
            f"{row.network_s * 1e3:.0f}",
            " to ".join(f"{each * 1e3:.0f}" for each in row.quartiles_s),
            f"{row.ratio:.2f}",
        ]
        for row in rows
    ]
    print(rendered(heads, cells))


def _plot(rows: list[Row], path: Path) -> None:
    import matplotlib  # noqa: PLC0415  # of the `bench` extra

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt  # noqa: PLC0415

    cases = list(dict.fromkeys(row.case for row in rows))
    figure, axes = plt.subplots(1, len(cases), figsize=(4.8 * len(cases), 2.6), squeeze=False, sharey=True)
    for axis, case in zip(axes[0], cases, strict=True):
        shown = [row for row in rows if row.case == case][::-1]
        axis.barh([row.way for row in shown], [row.network_s * 1e3 for row in shown], color="#ee6677")
        ideal_ms = 1e3 * statistics.median(row.ideal_s for row in shown)
        axis.axvline(ideal_ms, color="#4477aa", label=f"ideal, {ideal_ms:.0f} ms")
        axis.set(xlabel="ms of a call beyond its compute")
        axis.set_title(case, fontsize=9)
        axis.legend(fontsize=8)
    figure.tight_layout()
    figure.savefig(path, dpi=110)


if __name__ == "__main__":
    sys.exit(main())
