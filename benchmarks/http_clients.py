"""One frame to a worker and back by four HTTP clients, in turns in one run.

    python benchmarks/http_clients.py

Why the transport is written on sockets: the others' cost on the path of every forward call, as a ratio to it.
"""

from __future__ import annotations

import argparse
import http.client
import json
import statistics
import sys
from collections.abc import Callable
from pathlib import Path
from time import perf_counter
from urllib.parse import urlsplit

import requests
import torch
import urllib3

sys.path.insert(0, str(Path(__file__).parent))
from comfy_gpu_offload.io.tree import pack
from comfy_gpu_offload.protocol.envelope import seal
from comfy_gpu_offload.protocol.messages import Cancel
from comfy_gpu_offload.transport.base import Timeouts
from comfy_gpu_offload.transport.http import MEDIA_TYPE, HttpTransport
from echo_worker import echo_worker

_HEADERS = {"Content-Type": MEDIA_TYPE}
_SIZES = {"1 KB": 256, "512 KB": 131_072, "4 MB": 1_048_576}


def main() -> int:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--calls", type=int, default=200, help="of each client and size (default: %(default)s)")
    parser.add_argument("--json", type=Path, help="also write the rows here")
    options = parser.parse_args()
    rows = []
    with echo_worker() as url:
        for name, floats in _SIZES.items():
            # A cancel of nothing: the worker reads the whole frame and answers at once.
            frame = seal(Cancel(request="nothing-to-cancel"), pack(torch.zeros(floats)))
            rows += _measure(name, _clients(url, frame), options.calls)
    print(f"{'upload':>8} {'client':<12} {'ms':>8} {'ratio':>7}")
    for row in rows:
        print(f"{row['upload']:>8} {row['client']:<12} {row['ms']:8.3f} {row['ratio']:7.2f}")
    if options.json:
        options.json.write_text(json.dumps(rows, indent=1))
    return 0


def _clients(url: str, frame) -> dict[str, Callable[[], object]]:  # type: ignore[no-untyped-def]
    transport, timeouts = HttpTransport(url), Timeouts()
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


def _measure(upload: str, clients: dict[str, Callable[[], object]], calls: int) -> list[dict[str, str | float]]:
    times: dict[str, list[float]] = {name: [] for name in clients}
    for _ in range(calls):
        for name, call in clients.items():
            started = perf_counter()
            call()
            times[name].append(perf_counter() - started)
    medians = {name: 1e3 * statistics.median(values) for name, values in times.items()}
    return [
        {"upload": upload, "client": name, "ms": ms, "ratio": ms / medians["ours"]} for name, ms in medians.items()
    ]


if __name__ == "__main__":
    sys.exit(main())
