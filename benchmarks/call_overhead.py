"""What a forward call costs beyond the model: against a bare socket that carries the same bytes both ways.

    python benchmarks/call_overhead.py

Bare socket and calls take turns in one run, so that the machine's moods meet both; medians are compared. The
bound that is held: a 512 KB call, uncompressed, takes at most 3 times the bare exchange plus 0.5 ms.
"""

from __future__ import annotations

import argparse
import itertools
import json
import statistics
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from time import perf_counter

import torch

sys.path.insert(0, str(Path(__file__).parent))
import comfy_gpu_offload
from echo_worker import bare_echo, echo_worker, receive_exactly

_SHAPES = {"1 KB": (1, 16, 4, 8), "512 KB": (1, 16, 128, 128), "4 MB": (8, 16, 128, 128)}
_BOUND_SHAPE = "512 KB"


def main() -> int:
    """Prints the table; exit status 1 if the bound is not held."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--calls", type=int, default=300, help="of each kind and size (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path, help="also write the rows here")
    options = parser.parse_args()
    torch.manual_seed(options.seed)
    rows = list(_measure(options.calls))
    print(
        f"{'latent':>8} {'bare ms':>9} {'call ms':>9} {'ratio':>7}   of the call: pack, encode, wire, decode (ms)"
    )
    for row in rows:
        print(
            f"{row['latent']:>8} {row['bare_ms']:9.3f} {row['call_ms']:9.3f} {row['ratio']:7.2f}   "
            f"{row['pack_ms']:.3f}, {row['encode_ms']:.3f}, {row['wire_ms']:.3f}, {row['decode_ms']:.3f}"
        )
    if options.json:
        options.json.write_text(json.dumps(rows, indent=1))
    bounded = next(row for row in rows if row["latent"] == _BOUND_SHAPE)
    bound = 3 * float(bounded["bare_ms"]) + 0.5
    held = float(bounded["call_ms"]) <= bound
    print(f"{_BOUND_SHAPE}: {bounded['call_ms']:.3f} ms, bound 3 x bare + 0.5 ms = {bound:.3f} ms: "
          f"{'held' if held else 'NOT HELD'}")  # fmt: skip
    return 0 if held else 1


def _measure(calls: int) -> Iterator[dict[str, str | float]]:
    with ExitStack() as stack:
        session = stack.enter_context(comfy_gpu_offload.connect(stack.enter_context(echo_worker())))
        model = session.model("echo")
        for name, shape in _SHAPES.items():
            latent = torch.randn(shape).to(torch.bfloat16)
            with bare_echo(latent.nbytes) as bare:
                yield _pair(name, latent, model, bare, calls)


def _pair(name: str, latent: torch.Tensor, model: torch.nn.Module, bare, calls: int):  # type: ignore[no-untyped-def]
    sigma = torch.ones(1)
    out, back = memoryview(bytearray(latent.nbytes)), memoryview(bytearray(latent.nbytes))

    def bare_exchange() -> None:
        bare.sendall(out)
        receive_exactly(bare, back)

    count = itertools.count()
    bits = latent.view(torch.int16).view(-1)

    def call() -> None:
        bits[0] = next(count)  # as a sampler does: never the same latent twice
        model(latent, sigma)

    bare_s, call_s = [], []
    for _ in range(calls):
        bare_s.append(_timed(bare_exchange))
        call_s.append(_timed(call))
    parts = list(model.timings)[-calls:]
    medians = {
        f"{part}_ms": 1e3 * statistics.median(getattr(timing, f"{part}_s") for timing in parts)
        for part in ("pack", "encode", "wire", "decode")
    }
    bare_ms, call_ms = 1e3 * statistics.median(bare_s), 1e3 * statistics.median(call_s)
    return {"latent": name, "bare_ms": bare_ms, "call_ms": call_ms, "ratio": call_ms / bare_ms, **medians}


def _timed(function: Callable[[], None]) -> float:
    started = perf_counter()
    function()
    return perf_counter() - started


if __name__ == "__main__":
    sys.exit(main())
