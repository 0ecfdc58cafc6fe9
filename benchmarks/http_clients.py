"""One frame to a worker and back by four HTTP clients, in turns in one run.

    python benchmarks/http_clients.py

Why the transport is written on sockets: the others' cost on the path of every forward call, as a ratio to it.
"""

from __future__ import annotations

import http.client
import statistics
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter
from typing import Any
from urllib.parse import urlsplit

import requests
import torch
import urllib3

sys.path.insert(0, str(Path(__file__).parent))
import arguments
import plots
from comfy_gpu_offload.config.address import Address
from comfy_gpu_offload.io.frame import EncodedFrame
from comfy_gpu_offload.io.tree import pack
from comfy_gpu_offload.protocol.envelope import seal
from comfy_gpu_offload.protocol.messages import Cancel
from comfy_gpu_offload.transport.base import Timeouts
from comfy_gpu_offload.transport.http_transport import MEDIA_TYPE, HttpTransport
from echo_worker import echo_worker
from results import Results, Table, conclude

_HEADERS = {"Content-Type": MEDIA_TYPE}
_SIZES = {"1 KB": 256, "512 KB": 131_072, "4 MB": 1_048_576}


@dataclass(frozen=True)
class Row:
    """One client's median seconds for one exchange, and the ratio to the time of this package's transport."""

    upload: str
    client: str
    ms: float
    ratio: float


def main() -> int:
    """Print the table."""
    parser = arguments.parser(__doc__, seed_of="the tensor that is sent")
    parser.add_argument(
        "--calls", type=arguments.positive, default=200, help="of each client and size (default: %(default)s)"
    )
    options = parser.parse_args()
    generator = torch.Generator().manual_seed(options.seed)
    rows: list[Row] = []
    with echo_worker() as url:
        for name, floats in _SIZES.items():
            # A cancel of nothing: the worker reads the whole frame and answers at once.
            frame = seal(Cancel(request="nothing-to-cancel"), pack(torch.randn(floats, generator=generator)))
            rows += _measure(name, _clients(url, frame), options.calls)
    title = "Milliseconds of an exchange, and the ratio to the transport used here"
    return conclude(
        Results(
            "http_clients", rows, [Table(title, *_by_size(rows))], plots={"http_clients": lambda: _figure(rows)}
        ),
        options,
    )


def _clients(url: str, frame: EncodedFrame) -> dict[str, Callable[[], object]]:
    transport, timeouts = HttpTransport(Address.parse(url)), Timeouts()
    body, address = bytes(frame.joined()), f"{url}/v1/cancel"
    plain = http.client.HTTPConnection(urlsplit(url).netloc)
    pool, session = urllib3.PoolManager(), requests.Session()

    def by_http_client() -> bytes:
        plain.request("POST", "/v1/cancel", body, _HEADERS)
        return plain.getresponse().read()

    return {
        "ours": lambda: transport.exchange("cancel", frame, timeouts),
        "http.client": by_http_client,
        "urllib3": lambda: pool.request("POST", address, body=body, headers=_HEADERS, timeout=60).data,
        "requests": lambda: session.post(address, data=body, headers=_HEADERS, timeout=60).content,
    }


def _measure(upload: str, clients: dict[str, Callable[[], object]], calls: int) -> Iterator[Row]:
    times: dict[str, list[float]] = {name: [] for name in clients}
    for _ in arguments.progress(range(calls), desc=upload, unit="turn"):
        for name, call in clients.items():
            started = perf_counter()
            call()
            times[name].append(perf_counter() - started)
    medians = {name: 1e3 * statistics.median(values) for name, values in times.items()}
    return (Row(upload, name, ms, ms / medians["ours"]) for name, ms in medians.items())


def _by_size(rows: list[Row]) -> tuple[list[str], list[list[str]]]:
    clients = list(dict.fromkeys(row.client for row in rows))
    cells = [
        [upload, *(f"{row.ms:.2f} ({row.ratio:.2f})" for row in rows if row.upload == upload)] for upload in _SIZES
    ]
    return ["upload", *clients], cells


def _figure(rows: list[Row]) -> Any:
    figure, axes = plots.panels(1, len(_SIZES), width=2.8, height=2.2)
    for axis, upload in zip(axes, _SIZES, strict=True):
        shown = [row for row in rows if row.upload == upload]
        colours = [plots.BLUE if row.client == "ours" else plots.GREY for row in shown]
        labels = [f"{row.ratio:.2f}" for row in shown]
        plots.bars(axis, [row.client for row in shown], [row.ms for row in shown], colours=colours, labels=labels)
        axis.set(title=f"{upload} up", xlabel="ms an exchange (at the bars: times ours)")
    return figure


if __name__ == "__main__":
    sys.exit(main())
