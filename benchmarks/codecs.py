"""Measure every codec on real and on generated tensors: size, speed, and the errors of the lossy ones.

    python benchmarks/codecs.py --output plots
    python benchmarks/codecs.py --captured FOLDER    # what COMFY_GPU_OFFLOAD_CAPTURE_DIR left there
    python benchmarks/codecs.py --check --no-peers --no-digits

One thread. Speeds are medians, in MB (10^6 bytes) of the tensor per second, from memory to memory. The bound is the
size that a code of single elements needs (see order0.py); it is stated for floats of 16 and 32 bits. The other
libraries are those of `pip install '.[bench,zipnn]'`; those that are missing are named.

Bounds for `planes` on a Flux latent of Gaussian noise: bf16 at least 98 % of the order-0 bound, 400 MB/s to encode
and 800 MB/s to decode; fp16 at least 99 % of the order-0 bound. With `--check` the exit status is 1 if one is not
held.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).parent))
import arguments
import codec_report
from codec_cases import Case, captured, decoded_pictures, digits, generated
from codec_measure import Row, by_codec, by_peer
from codec_peers import Peer, peers
from comfy_gpu_offload.io import codecs
from order0 import bound_bytes
from results import Results, conclude

OURS: list[codecs.Codec | codecs.Chooser] = [codecs.AUTO, *(codecs.named(name) for name in codecs.names())]


def main() -> int:
    """Measure and print the tables; return 1 if `--check` is given and a bound is not held."""
    options = _options()
    torch.set_num_threads(1)
    others, missing = peers() if options.peers else ([], [])
    rows = list(_measure(list(_cases(options)), others, options.repeats))
    found = Results(
        "codecs",
        rows,
        codec_report.tables(rows),
        codec_report.bounds(rows),
        plots={"codecs_size": lambda: codec_report.sizes(rows), "codecs_speed": lambda: codec_report.speeds(rows)},
        notes=missing,
    )
    return conclude(found, options, check=options.check)


def _options() -> argparse.Namespace:
    parser = arguments.parser(__doc__)
    parser.add_argument(
        "--repeats", type=arguments.positive, default=9, help="of each measurement (default: %(default)s)"
    )
    parser.add_argument("--captured", type=Path, metavar="FOLDER", help="measure on the *.safetensors here, too")
    parser.add_argument(
        "--most",
        type=arguments.positive,
        default=8,
        help="tensors of one name out of a captured run (default: %(default)s)",
    )
    parser.add_argument(
        "--no-digits", dest="digits", action="store_false", help="leave out the sampling run, which needs diffusers"
    )
    parser.add_argument("--no-peers", dest="peers", action="store_false", help="measure this package's codecs only")
    parser.add_argument("--check", action="store_true", help="exit with 1 where a bound is not held")
    return parser.parse_args()


def _cases(options: argparse.Namespace) -> Iterator[Case]:
    yield from generated(options.seed)
    yield from decoded_pictures(options.seed)
    if options.digits:
        yield from digits(options.seed)
    if options.captured:
        yield from captured(options.captured, options.most)


def _measure(cases: list[Case], others: list[Peer], repeats: int) -> Iterator[Row]:
    progress: Any
    with arguments.progress(total=len(cases) * (len(OURS) + len(others)), unit="codec") as progress:
        for case in cases:
            bound = bound_bytes(case.tensors)
            for way in [*OURS, *others]:
                progress.set_description(f"{case.name}: {way.name}")
                if isinstance(way, Peer):
                    row = by_peer(case, way, bound, repeats)
                else:
                    row = by_codec(case, way, bound, repeats)
                if row is not None:
                    yield row
                progress.update()


if __name__ == "__main__":
    sys.exit(main())
