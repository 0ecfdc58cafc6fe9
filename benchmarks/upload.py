"""Upload a LoRA over an emulated link: the share of the link, the memory, and the bytes of using it again.

    python benchmarks/upload.py
    python benchmarks/upload.py --link 40/20/100 --size-mb 50 --json upload.json
    python benchmarks/upload.py --what lora --setting none --carrier WebSocket HTTP

The client is this process; the worker, which keeps uploads in a folder, and the link are others. A LoRA is many
tensors below the size of a part; the same bytes as one tensor are cut into parts, which the worker puts together.
`of TCP` compares with a bare socket that sends as many bytes over the same link, `of link` with the link's nominal
rate, of which packets' own headers take 3.5 %; `effective`, the LoRA's own size over that rate, is more where
compression makes it smaller. Memory is this process's peak over what it took before. `again` is a
call with another strength, `new session` the same LoRA used by another client. Exits with 1 where a bound is not
held; those of time are for uploads of 50 MB or more, since a connection begins slowly.
"""

from __future__ import annotations

import argparse
import ctypes
import itertools
import socket
import sys
import threading
from collections.abc import Callable, Generator, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from tempfile import TemporaryDirectory
from time import perf_counter
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).parent))
import arguments
import plots
from carriers import CARRIERS, WEBSOCKET
from comfy_gpu_offload.client.remote_model import RemoteModel
from comfy_gpu_offload.client.session import Session, SessionOptions
from comfy_gpu_offload.client.weight_patches import WeightPatches
from comfy_gpu_offload.io import codecs
from comfy_gpu_offload.io.digests import digest
from comfy_gpu_offload.io.frame import EncodedFrame
from comfy_gpu_offload.transport.base import Check, Route, Timeouts, Transport
from comfy_gpu_offload.tuning.link import Link
from echo_worker import echo_worker
from emulated_link import best_kind, described, emulated
from results import Bound, Results, Table, conclude
from worker_process import worker_process

_MOST_MEMORY = 64e6
_LEAST_OF_LINK = 0.9
_MOST_AGAIN = 10_000
# Attention weights of SDXL's inner blocks.
_WIDTH, _RANK = 1280, 64
_PIECE_BYTES = 1024**2
_X = torch.ones(1, 4)
_COLUMNS = {
    "LoRA": "what",
    "setting": "setting",
    "carrier": "carrier",
    "MB": "size_bytes 1e-6 .1f",
    "sent MB": "sent_bytes 1e-6 .1f",
    "exchanges": "exchanges",
    "hash s": "hash_s .2f",
    "upload s": "upload_s .2f",
    "of TCP": "of_tcp .1%",
    "of link": "of_link .1%",
    "effective": "effective .1%",
    "memory MB": "memory_bytes 1e-6 .1f",
    "again KB": "again_bytes 1e-3 .1f",
    "new session KB": "new_session_bytes 1e-3 .1f",
}


@dataclass(frozen=True)
class Row:
    """The seconds and bytes of one upload, with the call that needed it."""

    what: str
    setting: str
    carrier: str
    size_bytes: int
    sent_bytes: int
    exchanges: int
    hash_s: float
    upload_s: float
    of_tcp: float
    of_link: float
    effective: float
    memory_bytes: int
    again_bytes: int
    new_session_bytes: int


def main() -> int:
    """Upload and print the table; exit status 1 if a bound is not held."""
    options = _options()
    link = options.link
    rows = []
    progress: Any
    with arguments.progress(total=_count(options), unit="upload") as progress:
        for what in options.what:
            named = _tensors(what, int(options.size_mb * 1e6), options.seed)
            for setting, carrier in itertools.product(options.setting, options.carrier):
                progress.set_description(f"{what}, {setting}, {carrier}")
                rows.append(_measured(link, what, named, setting=setting, carrier=carrier, kind=options.kind))
                progress.update()
    found = Results(
        "upload",
        rows,
        [Table.of(f"Uploads over {link}", _COLUMNS, rows)],
        list(_bounds(rows)),
        {"upload": lambda: _figure(rows, link)},
        [described(options.kind)],
    )
    return conclude(found, options)


def _count(options: argparse.Namespace) -> int:
    return len(options.what) * len(options.setting) * len(options.carrier)


def _options() -> argparse.Namespace:
    parser = arguments.parser(__doc__, seed_of="the weights")
    parser.add_argument(
        "--link", type=arguments.link, default="40/100/100", help="MS/MBIT/MBIT: round trip, up, down (%(default)s)"
    )
    parser.add_argument("--kind", choices=["tun", "threads"], default=best_kind(), help="of link emulation")
    parser.add_argument(
        "--size-mb", type=arguments.number(0.1, 100_000), default=200, help="of the LoRA (default: %(default)s)"
    )
    parser.add_argument("--what", nargs="+", choices=["lora", "one-tensor"], default=["lora", "one-tensor"])
    parser.add_argument("--setting", nargs="+", default=["none", "auto"], help="of compression")
    parser.add_argument(
        "--carrier", nargs="+", choices=CARRIERS, default=[WEBSOCKET], help="(default: %(default)s)"
    )
    return parser.parse_args()


def _bounds(rows: list[Row]) -> Iterator[Bound]:
    for row in rows:
        name = f"{row.what}, {row.setting}, {row.carrier}"
        second = max(row.again_bytes, row.new_session_bytes)
        yield Bound.at_least(f"{name}: share of what TCP gets out of the link", row.of_tcp, _LEAST_OF_LINK, ".1%")
        yield Bound.at_most(f"{name}: MB of memory", row.memory_bytes / 1e6, _MOST_MEMORY / 1e6, ".1f")
        yield Bound.at_most(f"{name}: KB for a second use", second / 1e3, _MOST_AGAIN / 1e3, ".1f")


def _figure(rows: list[Row], link: Link) -> Any:
    figure, axes = plots.panels(1, 2, width=3.6, height=2.2)
    names = [f"{row.what}, {row.setting}, {row.carrier}" for row in rows]
    times = {"upload": [row.upload_s for row in rows], "bare socket": [row.upload_s * row.of_tcp for row in rows]}
    plots.grouped(axes[0], names, times)
    axes[0].set(title=str(link), ylabel="seconds")
    axes[0].tick_params(axis="x", rotation=20)
    plots.legend(figure, axes[0])
    plots.bars(axes[1], names, [row.memory_bytes / 1e6 for row in rows])
    axes[1].axvline(_MOST_MEMORY / 1e6, color="black", linewidth=0.8, linestyle="--")
    axes[1].set(title="memory; dashed: the bound", xlabel="MB")
    return figure


def _measured(
    link: Link, what: str, named: dict[str, list[torch.Tensor]], *, setting: str, carrier: str, kind: Any
) -> Row:
    size = sum(tensor.nbytes for tensors in named.values() for tensor in tensors)
    started = perf_counter()
    digests = {name: [digest(tensor) for tensor in tensors] for name, tensors in named.items()}
    hash_s = perf_counter() - started
    held = {each: tensor for name in named for each, tensor in zip(digests[name], named[name], strict=True)}
    template = {name: [[0, "lora", [*digests[name], float(_RANK)], None, None]] for name in named}
    with ExitStack() as stack:
        folder = Path(stack.enter_context(TemporaryDirectory(prefix="comfy-gpu-offload-")))
        url = stack.enter_context(echo_worker(uploads=folder))
        near = stack.enter_context(emulated(link, int(url.rsplit(":", 1)[1]), kind))
        transport = _Counting(CARRIERS[carrier](f"http://127.0.0.1:{near}"))
        with _session(transport, setting) as session:
            model = session.model("echo")
            _use(model, {}, {}, 1.0)
            transport.reset()
            with _peak_memory() as peak:
                started = perf_counter()
                _use(model, template, held, 1.0)
                upload_s = perf_counter() - started
            memory = peak()
            uploaded, exchanges = transport.sent_bytes, transport.exchanges
            transport.reset()
            _use(model, template, held, 0.5)
            again = transport.sent_bytes
        with _session(transport, setting) as session:
            model = session.model("echo")
            transport.reset()
            _use(model, template, held, 1.0)
    bare_s = _bare_s(link, uploaded, kind)
    return Row(
        what=what,
        setting=setting,
        carrier=carrier,
        size_bytes=size,
        sent_bytes=uploaded,
        exchanges=exchanges,
        hash_s=hash_s,
        upload_s=upload_s,
        of_tcp=bare_s / upload_s,
        of_link=uploaded / link.up_bytes_s / upload_s,
        effective=size / link.up_bytes_s / upload_s,
        memory_bytes=memory,
        again_bytes=again,
        new_session_bytes=transport.sent_bytes,
    )


def _tensors(what: str, size_bytes: int, seed: int) -> dict[str, list[torch.Tensor]]:
    """Return the tensors of each layer's patch, in bfloat16."""
    generator = torch.Generator().manual_seed(seed)

    def weights(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=generator).mul_(0.02).bfloat16()

    if what == "one-tensor":
        return {"diffusion_model.out.2.weight": [weights(size_bytes // 2)]}
    layers = size_bytes // (2 * 2 * _WIDTH * _RANK)
    names = [
        f"diffusion_model.middle_block.1.transformer_blocks.{layer}.attn1.to_q.weight" for layer in range(layers)
    ]
    return {name: [weights(_WIDTH, _RANK), weights(_RANK, _WIDTH)] for name in names}


def _bare_s(link: Link, size_bytes: int, kind: Any) -> float:
    """Seconds that a bare socket takes to send so much, and to hear that it is there."""
    with (
        worker_process(_sink, size_bytes) as port,
        emulated(link, port, kind) as near,
        socket.create_connection(("127.0.0.1", near)) as sock,
    ):
        piece = memoryview(bytes(_PIECE_BYTES))
        started = perf_counter()
        for start in range(0, size_bytes, _PIECE_BYTES):
            sock.sendall(piece[: size_bytes - start])
        sock.recv(1)
        return perf_counter() - started


def _sink(ready: Connection, size_bytes: int) -> None:
    listener = socket.create_server(("127.0.0.1", 0))
    ready.send(listener.getsockname()[1])
    connection, _ = listener.accept()
    waste = bytearray(_PIECE_BYTES)
    while size_bytes > 0:
        size_bytes -= connection.recv_into(waste)
    connection.sendall(b"!")


class _Counting:
    """A transport that counts what it is given to send. See `transport.base.Transport`."""

    carries_cancel = True

    def __init__(self, inner: Transport) -> None:
        self._inner = inner
        self.peer = inner.peer
        self._lock = threading.Lock()
        self.reset()

    def reset(self) -> None:
        self.sent_bytes = self.exchanges = 0

    def exchange(
        self, route: Route, frame: EncodedFrame, timeouts: Timeouts, check: Check | None = None
    ) -> memoryview:
        with self._lock:
            self.sent_bytes += frame.size_bytes
            self.exchanges += 1
        return self._inner.exchange(route, frame, timeouts, check)

    def stream(
        self, route: Route, frame: EncodedFrame, timeouts: Timeouts, check: Check | None = None
    ) -> Generator[memoryview]:
        return self._inner.stream(route, frame, timeouts, check)

    def close(self) -> None:
        self._inner.close()


def _session(transport: _Counting, setting: str) -> Session:
    codec = codecs.RAW if setting == "none" else codecs.wanted(setting)
    return Session(transport, SessionOptions(codec=codec))


def _use(model: RemoteModel, template: dict[str, Any], held: dict[bytes, torch.Tensor], strength: float) -> None:
    """Make a call with these patches on the model's weights."""
    bar: Any
    with arguments.progress(unit="B", unit_scale=True) as bar:

        def show(done: int, total: int) -> None:
            bar.total = total
            bar.update(done - bar.n)

        model.patched(WeightPatches(template, ((strength, 1.0),), held, show), (_X,), {})


@contextmanager
def _peak_memory() -> Iterator[Callable[[], int]]:
    """Bytes by which this process's memory grew at most within the block; to be asked after it."""
    grown = 0
    _forget_peak()
    before = _peak_bytes()
    yield lambda: grown
    grown = _peak_bytes() - before


def _forget_peak() -> None:
    """Has Linux count the peak anew; elsewhere it is that of the whole process, and a growth may go unseen."""
    with suppress(AttributeError, OSError):
        ctypes.CDLL(None).malloc_trim(0)  # glibc's: what was freed before must not serve the upload unseen
    if sys.platform == "linux":
        Path("/proc/self/clear_refs").write_text("5")  # proc(5)


def _peak_bytes() -> int:
    if sys.platform == "linux":
        (line,) = (line for line in Path("/proc/self/status").read_text().splitlines() if "VmHWM" in line)
        return int(line.split()[1]) * 1024
    import resource  # noqa: PLC0415  # POSIX alone has it

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


if __name__ == "__main__":
    sys.exit(main())
