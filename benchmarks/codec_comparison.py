"""What each codec makes of real and of generated tensors: size, speed, and what the lossy ones lose.

    python benchmarks/codec_comparison.py --plot codecs.png
    python benchmarks/codec_comparison.py --captured DIR      # *.safetensors of your own

One thread. Speeds are medians, in MB of the tensor a second, its bytes given and wanted in memory.

The bound is what a code needs that looks at elements one by one: the order-0 entropy of their exponents, one bit
for the sign, and the order-0 entropy of the first ten bits of their mantissas; further bits, which only float32
has, count in full. A code that sees elements repeat takes less. It is stated for floats of 16 and 32 bits.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import sys
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

sys.path.insert(0, str(Path(__file__).parent))
from codec_cases import Case, captured, digits, generated
from codec_peers import Peer, peers
from comfy_gpu_offload.io import codecs
from comfy_gpu_offload.io.buffers import tensor_bytes, tensor_from
from comfy_gpu_offload.io.dtypes import NAMES

OURS: list[codecs.Codec | codecs.Chooser] = [
    codecs.RAW,
    codecs.ZSTD,
    codecs.PLANES,
    codecs.AUTO,
    codecs.Int8Block(),
    codecs.Int8Channel(),
    codecs.Fp8(),
    codecs.Int4Block(),
]
_LEAST_S = 0.05
# Exponent bits and mantissa bits.
_FIELDS = {torch.bfloat16: (8, 7), torch.float16: (5, 10), torch.float32: (8, 23)}


@dataclass(frozen=True)
class Row:
    """One way's figures on one case; None where they are not measured or mean nothing."""

    case: str
    way: str
    ours: bool
    tensor_bytes: int
    stored_bytes: int
    ratio: float
    of_bound: float | None
    encode_mb_s: float
    decode_mb_s: float | None
    relative_l2: float
    max_error: float


def main() -> int:
    """Measures, prints the table, writes JSON and the plot."""
    options = _options()
    torch.set_num_threads(1)
    cases = list(_cases(options))
    others, missing = peers() if not options.no_peers else ([], [])
    for line in missing:
        print(line)
    rows = list(_measure(cases, others, options.repeats))
    _print(rows)
    if options.json:
        machine = {"machine": platform.machine(), "torch": torch.__version__, "seed": options.seed}
        options.json.write_text(json.dumps(machine | {"rows": [asdict(row) for row in rows]}, indent=1))
    if options.plot:
        _plot(rows, options.plot)
    return 0


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=0, help="of all noise (default: %(default)s)")
    parser.add_argument(
        "--repeats", type=int, default=9, help="of each measurement, at least (default: %(default)s)"
    )
    parser.add_argument("--captured", type=Path, metavar="DIR", help="measure on the *.safetensors here, too")
    parser.add_argument(
        "--no-digits", action="store_true", help="leave out the sampling run, which needs diffusers"
    )
    parser.add_argument("--no-peers", action="store_true", help="measure this package's codecs only")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the rows here")
    parser.add_argument("--plot", type=Path, metavar="PNG", help="also draw ratios and speeds")
    return parser.parse_args()


def _cases(options: argparse.Namespace) -> Iterator[Case]:
    yield from generated(options.seed)
    if not options.no_digits:
        yield from digits(options.seed)
    if options.captured:
        yield from captured(options.captured)


def _measure(cases: list[Case], others: list[Peer], repeats: int) -> Iterator[Row]:
    with tqdm(total=len(cases) * (len(OURS) + len(others)), leave=False) as progress:
        for case in cases:
            bound = _bound_bytes(case.tensors)
            for codec in OURS:
                progress.set_description(f"{case.name}: {codec.name}")
                yield _row(
                    case, codec.name, True, [_ours(codec, tensor, repeats) for tensor in case.tensors], bound
                )
                progress.update()
            for peer in others:
                progress.set_description(f"{case.name}: {peer.name}")
                measured = [_peer(peer, tensor, repeats) for tensor in case.tensors]
                yield from [] if None in measured else [_row(case, peer.name, False, measured, bound)]
                progress.update()


@dataclass(frozen=True)
class _Measured:
    """One tensor, one way."""

    stored_bytes: int
    encode_s: float
    decode_s: float | None
    back: torch.Tensor


def _ours(codec: codecs.Codec | codecs.Chooser, tensor: torch.Tensor, repeats: int) -> _Measured:
    data, dtype, shape = tensor_bytes(tensor), NAMES[tensor.dtype], tuple(tensor.shape)
    used, payload = codecs.encode(codec, data, dtype, shape)
    # As it arrives: in memory of its own, which may be written to.
    arrived = memoryview(bytearray(payload))
    return _Measured(
        len(payload),
        _median_s(lambda: codecs.encode(codec, data, dtype, shape), repeats),
        None if used == codecs.RAW else _median_s(lambda: used.decode(arrived, len(data), dtype, shape), repeats),
        tensor_from(used.decode(arrived, len(data), dtype, shape), tensor.dtype, shape),
    )


def _peer(peer: Peer, tensor: torch.Tensor, repeats: int) -> _Measured | None:
    payload = peer.encode(tensor)
    if payload is None:
        return None
    encode_s = _median_s(lambda: peer.encode(tensor), repeats)
    decode = peer.decode
    if decode is None:
        return _Measured(len(payload), encode_s, None, tensor)
    if bytes(decode(payload)) != tensor_bytes(tensor):
        raise SystemExit(f"{peer.name} did not give a {NAMES[tensor.dtype]} tensor back")
    return _Measured(len(payload), encode_s, _median_s(lambda: decode(payload), repeats), tensor)


def _median_s(run: Callable[[], Any], repeats: int) -> float:
    run()
    times: list[float] = []
    while len(times) < repeats or (sum(times) < _LEAST_S and len(times) < 20 * repeats):
        started = perf_counter()
        run()
        times.append(perf_counter() - started)
    return statistics.median(times)


def _row(case: Case, way: str, ours: bool, measured: Iterable[_Measured | None], bound: float | None) -> Row:
    each = [one for one in measured if one is not None]
    size, stored = sum(tensor.nbytes for tensor in case.tensors), sum(one.stored_bytes for one in each)
    decoded = [one.decode_s for one in each if one.decode_s is not None]
    differing = [
        (tensor, one.back)
        for tensor, one in zip(case.tensors, each, strict=True)
        if tensor_bytes(tensor) != tensor_bytes(one.back)
    ]
    errors = [(back.double() - tensor.double()) for tensor, back in differing]
    norm = sum(float(tensor.double().square().sum()) for tensor, _ in differing)
    return Row(
        case=case.name,
        way=way,
        ours=ours,
        tensor_bytes=size,
        stored_bytes=stored,
        ratio=size / stored,
        of_bound=None if bound is None or errors else bound / stored,
        encode_mb_s=size / sum(one.encode_s for one in each) / 1e6,
        decode_mb_s=size / sum(decoded) / 1e6 if decoded else None,
        relative_l2=(sum(float(error.square().sum()) for error in errors) / norm) ** 0.5 if errors else 0.0,
        max_error=max((float(error.abs().max()) for error in errors), default=0.0),
    )


def _bound_bytes(tensors: list[torch.Tensor]) -> float | None:
    """What the module's docstring says, in bytes; None where a tensor is of another dtype."""
    if any(tensor.dtype not in _FIELDS for tensor in tensors):
        return None
    return sum(_bound_bits(tensor) * tensor.numel() for tensor in tensors) / 8


def _bound_bits(tensor: torch.Tensor) -> float:
    exponent_bits, mantissa_bits = _FIELDS[tensor.dtype]
    words = np.frombuffer(tensor_bytes(tensor), f"<u{tensor.element_size()}")
    exponents = (words >> mantissa_bits) & ((1 << exponent_bits) - 1)
    counted = min(mantissa_bits, 10)
    first = (words >> (mantissa_bits - counted)) & ((1 << counted) - 1)
    return 1 + _entropy(exponents) + _entropy(first) + mantissa_bits - counted


def _entropy(values: np.ndarray[Any, Any]) -> float:
    _, counts = np.unique(values, return_counts=True)
    shares = counts / counts.sum()
    return float(-(shares * np.log2(shares)).sum())


def _print(rows: list[Row]) -> None:
    for case in dict.fromkeys(row.case for row in rows):
        print(f"\n{case}, {next(row.tensor_bytes for row in rows if row.case == case) / 1e3:.0f} KB")
        print(
            f"  {'':<24}{'ratio':>9}{'of bound':>10}{'encode MB/s':>13}{'decode MB/s':>13}"
            f"{'relative L2':>13}{'max error':>11}"
        )
        for row in (row for row in rows if row.case == case):
            lost = (
                f"{row.relative_l2:13.3%}{row.max_error:11.2g}" if row.relative_l2 else f"{'none':>13}{'none':>11}"
            )
            print(
                f"  {row.way:<24}{row.ratio:9.3f}{_or_dash(row.of_bound, 10, '.1%')}{row.encode_mb_s:13.0f}"
                f"{_or_dash(row.decode_mb_s, 13, '.0f')}{lost}"
            )


def _or_dash(value: float | None, width: int, form: str) -> str:
    return f"{'-' if value is None else format(value, form):>{width}}"


def _plot(rows: list[Row], path: Path) -> None:
    import matplotlib  # noqa: PLC0415  # of the `bench` extra

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt  # noqa: PLC0415

    cases = list(dict.fromkeys(row.case for row in rows))
    columns = min(3, len(cases))
    lines = -(-len(cases) // columns)
    figure, axes = plt.subplots(lines, columns, figsize=(5.6 * columns, 4.2 * lines), squeeze=False)
    for axis, case in zip(axes.flat, cases, strict=False):
        ways = sorted((row for row in rows if row.case == case), key=lambda row: row.ratio)
        colours = ["#ee6677" if row.relative_l2 else "#4477aa" if row.ours else "#bbbbbb" for row in ways]
        bars = axis.barh([row.way for row in ways], [row.ratio for row in ways], color=colours)
        speeds = [f"{row.encode_mb_s:.0f}, {_or_dash(row.decode_mb_s, 1, '.0f')}" for row in ways]
        axis.bar_label(bars, speeds, fontsize=7, padding=3)
        axis.margins(x=0.25)
        axis.tick_params(labelsize=8)
        axis.set(title=case, xlabel="ratio; at the bars MB/s to encode, to decode")
    for axis in list(axes.flat)[len(cases) :]:
        axis.remove()
    figure.suptitle("blue: lossless; red: lossy; grey: others")
    figure.tight_layout()
    figure.savefig(path, dpi=110)


if __name__ == "__main__":
    sys.exit(main())
