"""Compare libraries for the WebSocket protocol: echoes over loopback, in pieces, beside a bare socket.

    python benchmarks/websocket_libraries.py
    python benchmarks/websocket_libraries.py --piece-kb 64 128 256 512 1024

A message is sent in pieces, each a binary WebSocket message of its own with 5 bytes before the payload; masked to
the server, unmasked back. Each end puts the pieces together in one buffer, made beforehand. The carriers take
turns, exchange by exchange, so that the machine's moods meet all.

bare           blocking sockets and nothing else
websockets     its sans-I/O core as it is documented: bytes fed in, events and bytes to send taken out
websockets+io  the same library's handshake, frame parser and mask; payloads are received into a buffer and sent
               from theirs beside a head of ten bytes
wsproto        wsproto, with h11 for the handshake

CPU is of both processes for one exchange. Memory is the most that an end allocates beyond the message's buffers.
"""

from __future__ import annotations

import argparse
import secrets
import socket
import statistics
import struct
import sys
import tracemalloc
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from time import perf_counter, process_time

import numpy as np
from websockets.speedups import apply_mask
from websockets.utils import apply_mask as masked_in_python
from wsproto.frame_protocol import XorMaskerSimple

sys.path.insert(0, str(Path(__file__).parent))
import arguments
from comfy_gpu_offload.server.malloc_tuning import keep_freed_memory
from results import Results, Table, conclude
from socket_echo import receive_exactly
from websocket_carriers import CARRIERS, Carrier
from worker_process import worker_process

_SIZES = {"64 KB": 65_536, "512 KB": 524_288, "4 MB": 4 * 1024**2, "30 MB": 30 * 1024**2}
_MASKED_BYTES = 4 * 1024**2
_MOST_BYTES = 10**9
_WARMING = 3
_REPORT = struct.Struct("<dQ")


@dataclass(frozen=True)
class Row:
    """Medians of one carrier, message and piece size: milliseconds, and bytes allocated beyond the message."""

    message: str
    piece: str
    carrier: str
    ms: float
    ratio: float
    cpu_ms: float
    client_bytes: int
    server_bytes: int


@dataclass(frozen=True)
class MaskRow:
    """The milliseconds that masking a megabyte takes in one way."""

    way: str
    ms_per_mb: float


def main() -> int:
    """Print the tables."""
    parser = arguments.parser(__doc__, seed_of="the messages")
    parser.add_argument("--exchanges", type=arguments.positive, default=60, help="of each kind, fewer of 30 MB")
    parser.add_argument(
        "--piece-kb", nargs="+", type=arguments.positive, default=[256], help="of a piece (default: %(default)s)"
    )
    libraries = [name for name in CARRIERS if name != "bare"]
    parser.add_argument("--carrier", nargs="+", choices=libraries, default=libraries, help="beside a bare socket")
    options = parser.parse_args()
    keep_freed_memory()
    rows = [
        row
        for name, size in _SIZES.items()
        for row in _compared(name, size, options, max(5, min(options.exchanges, _MOST_BYTES // size)))
    ]
    columns = {
        "message": "message",
        "piece": "piece",
        "carrier": "carrier",
        "ms": "ms .3f",
        "times bare": "ratio .2f",
        "CPU ms": "cpu_ms .2f",
        "client's memory, MB": "client_bytes 1e-6 .2f",
        "server's memory, MB": "server_bytes 1e-6 .2f",
    }
    masks = list(_masking())
    tables = [
        Table.of("An echo, there and back", columns, rows),
        Table.of("Masking", {"way": "way", "ms per MB": "ms_per_mb .3f"}, masks),
    ]
    return conclude(Results("websocket_libraries", [*rows, *masks], tables), options)


def _compared(message: str, size: int, options: argparse.Namespace, exchanges: int) -> Iterator[Row]:
    kinds = [("bare", size), *((name, piece * 1024) for piece in options.piece_kb for name in options.carrier)]
    times, cpu = _times(kinds, size, exchanges)
    bare_ms = 1e3 * statistics.median(times["bare", size])
    for kind in kinds:
        ms = 1e3 * statistics.median(times[kind])
        peaks = _peaks(kind, size)
        piece = "" if kind[0] == "bare" else f"{kind[1] // 1024} KB"
        yield Row(message, piece, kind[0], ms, ms / bare_ms, 1e3 * cpu[kind], *peaks)


Kind = tuple[str, int]


def _times(kinds: list[Kind], size: int, exchanges: int) -> tuple[dict[Kind, list[float]], dict[Kind, float]]:
    """Return the seconds of each exchange, and the CPU's at both ends for one."""
    out, back = memoryview(bytearray(secrets.token_bytes(size))), memoryview(bytearray(size))
    times: dict[Kind, list[float]] = {kind: [] for kind in kinds}
    used = dict.fromkeys(kinds, 0.0)
    with ExitStack() as stack:
        ends = {kind: stack.enter_context(_connected(kind, size, traced=False)) for kind in kinds}
        for _ in arguments.progress(range(_WARMING + exchanges), desc=f"{size >> 10} KB", unit="turn"):
            for kind, (_, carrier) in ends.items():
                began, busy = perf_counter(), process_time()
                carrier.send(out)
                carrier.receive(back)
                times[kind].append(perf_counter() - began)
                used[kind] += process_time() - busy
        if back != out:
            raise SystemExit("an echo came back altered")
        cpu = {
            kind: (used[kind] + _report(connection)[0]) / (_WARMING + exchanges)
            for kind, (connection, _) in ends.items()
        }
    return {kind: values[_WARMING:] for kind, values in times.items()}, cpu


def _peaks(kind: Kind, size: int) -> tuple[int, int]:
    out, back = memoryview(bytearray(secrets.token_bytes(size))), memoryview(bytearray(size))
    with _connected(kind, size, traced=True) as (connection, carrier):
        for number in range(3):
            if number == 1:  # the first has made what is kept
                tracemalloc.start()
            carrier.send(out)
            carrier.receive(back)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return peak, int(_report(connection)[1])


def _report(connection: socket.socket) -> tuple[float, int]:
    """End an echo and return its CPU seconds and its most bytes."""
    connection.shutdown(socket.SHUT_WR)
    report = memoryview(bytearray(_REPORT.size))
    receive_exactly(connection, report)
    return _REPORT.unpack(report)


@contextmanager
def _connected(kind: Kind, size: int, *, traced: bool) -> Iterator[tuple[socket.socket, Carrier]]:
    with (
        worker_process(_serve, kind, size, traced) as port,
        socket.create_connection(("127.0.0.1", port)) as connection,
    ):
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        yield connection, CARRIERS[kind[0]](connection, kind[1], is_client=True)


def _serve(ready: Connection, kind: Kind, size: int, traced: bool) -> None:
    keep_freed_memory()
    listener = socket.create_server(("127.0.0.1", 0))
    ready.send(listener.getsockname()[1])
    connection, _ = listener.accept()
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    carrier = CARRIERS[kind[0]](connection, kind[1], is_client=False)
    view = memoryview(bytearray(size))
    began, count = process_time(), 0
    while carrier.receive(view):
        carrier.send(view)
        count += 1
        if traced and count == 1:
            tracemalloc.start()
    connection.sendall(_REPORT.pack(process_time() - began, tracemalloc.get_traced_memory()[1] if traced else 0))


def _masking() -> Iterator[MaskRow]:
    data, key = secrets.token_bytes(_MASKED_BYTES), secrets.token_bytes(4)
    words, into = np.frombuffer(data, np.uint32), np.empty(_MASKED_BYTES // 4, np.uint32)
    word = np.frombuffer(key, np.uint32)[0]
    ways: dict[str, Callable[[], object]] = {
        "a copy, for comparison": lambda: bytearray(data),
        "websockets.speedups.apply_mask": lambda: apply_mask(data, key),
        "numpy, into a buffer": lambda: np.bitwise_xor(words, word, out=into),
        "wsproto": lambda: XorMaskerSimple(key).process(bytearray(data)),
        "websockets without its C part": lambda: masked_in_python(data, key),
    }
    for way, mask in ways.items():
        times = []
        for _ in range(15):
            began = perf_counter()
            mask()
            times.append(perf_counter() - began)
        yield MaskRow(way, 1e3 * statistics.median(times) / (_MASKED_BYTES / 1e6))


if __name__ == "__main__":
    sys.exit(main())
