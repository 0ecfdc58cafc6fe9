"""What one forward call moves and costs, against what the model computes meanwhile.

    python benchmarks/transfer_vs_compute.py --output DIR
    python benchmarks/transfer_vs_compute.py --compute flux=0.4 --rtt-ms 40 --up-mbit 20 --down-mbit 100

Sends calls of SD1.5, SDXL, Flux and Wan shapes (classifier-free guidance as a batch of 2 where the model uses it)
to a worker in another process whose model only returns its latent, so pack, encode, wire and decode are measured
over loopback. Compute is not measured here: it is given, by default as rough figures for an RTX 4090, or measured
with `--url`, on a worker of yours. The link's time is computed from what was sent: RTT + bytes / bandwidth.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import sys
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

sys.path.insert(0, str(Path(__file__).parent))
import comfy_gpu_offload
from comfy_gpu_offload.client.timings import CallTimings
from echo_worker import echo_worker


@dataclass(frozen=True)
class Call:
    """A forward call's shapes. `compute_s` is a rough figure for an RTX 4090, to be replaced by one's own."""

    title: str
    dtype: torch.dtype
    latent: tuple[int, ...]
    conditioning: dict[str, tuple[int, ...]]
    compute_s: float


CALLS = {
    "sd15": Call("SD1.5 512²", torch.float16, (2, 4, 64, 64), {"context": (2, 77, 768)}, 0.04),
    "sdxl": Call("SDXL 1024²", torch.float16, (2, 4, 128, 128), {"context": (2, 77, 2048), "y": (2, 2816)}, 0.17),
    "flux": Call(
        "Flux 1024²",
        torch.bfloat16,
        (1, 16, 128, 128),
        {"context": (1, 512, 4096), "y": (1, 768), "guidance": (1,)},
        0.6,
    ),
    "wan": Call("Wan 14B 832x480x81", torch.bfloat16, (2, 16, 21, 60, 104), {"context": (2, 512, 4096)}, 10.0),
}


@dataclass(frozen=True)
class Row:
    """One model's figures: medians over the calls after the first; ms and bytes."""

    model: str
    calls: int
    first_bytes_up: int
    bytes_up: int
    bytes_down: int
    pack_ms: float
    encode_ms: float
    wire_ms: float
    decode_ms: float
    compute_ms: float
    compute_is: str
    link_ms: float
    share_of_compute: float


def main() -> int:
    """Measures, prints the table, writes JSON and the plot."""
    options = _options()
    torch.manual_seed(options.seed)
    given = _given(options.compute)
    rows = []
    with ExitStack() as stack:
        url = options.url or stack.enter_context(echo_worker())
        session = comfy_gpu_offload.connect(url, options.token, compression=options.compression)
        stack.enter_context(session)
        for name in options.models:
            timings = _run(session.model(options.model_name), CALLS[name], options.calls, options.dtype_cast)
            rows.append(_row(name, timings, given.get(name), options))
    _print(rows, options)
    if options.output:
        options.output.mkdir(parents=True, exist_ok=True)
        machine = {"machine": platform.machine(), "torch": torch.__version__, "seed": options.seed}
        document = machine | {"rows": [asdict(row) for row in rows]}
        (options.output / "transfer_vs_compute.json").write_text(json.dumps(document, indent=1))
        _plot(rows, options.output / "transfer_vs_compute.png")
        print(f"JSON and plot are in {options.output}")
    return 0


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", choices=CALLS, default=list(CALLS))
    parser.add_argument("--calls", type=int, default=20, help="per model, the first apart (default: %(default)s)")
    parser.add_argument(
        "--compute", nargs="*", default=[], metavar="MODEL=SECONDS", help="your GPU's time per call"
    )
    parser.add_argument("--compression", choices=["none", "zstd"], default="none")
    parser.add_argument("--rtt-ms", type=float, default=40.0)
    parser.add_argument("--up-mbit", type=float, default=20.0)
    parser.add_argument("--down-mbit", type=float, default=100.0)
    parser.add_argument("--url", help="a worker to measure compute on, in place of the built-in echo")
    parser.add_argument("--token", help="that worker's token")
    parser.add_argument("--model-name", default="echo", help="its model, which must take these shapes")
    parser.add_argument("--dtype-cast", action="store_true", help="send the model's compute dtype")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=Path, metavar="DIR", help="where to write JSON and the plot (PNG)")
    return parser.parse_args()


def _given(pairs: list[str]) -> dict[str, float]:
    given = {}
    for pair in pairs:
        name, _, seconds = pair.partition("=")
        if name not in CALLS or not seconds:
            raise SystemExit(f"--compute {pair}: one of {', '.join(CALLS)}, =, and seconds")
        given[name] = float(seconds)
    return given


def _run(model: comfy_gpu_offload.RemoteModel, call: Call, calls: int, cast: bool) -> list[CallTimings]:
    dtype = model.dtype if cast else call.dtype
    conditioning = {name: torch.randn(shape).to(dtype) for name, shape in call.conditioning.items()}
    for step in tqdm(range(calls + 1), desc=call.title, leave=False):
        latent = torch.randn(call.latent).to(dtype)
        # A new tensor of the same content, as ComfyUI makes one for every step.
        model(latent, torch.tensor([float(step)]), **{name: value.clone() for name, value in conditioning.items()})
    return list(model.timings)[-calls - 1 :]


def _row(name: str, timings: list[CallTimings], given: float | None, options: argparse.Namespace) -> Row:
    first, steady = timings[0], timings[1:]

    def median(part: str) -> float:
        return statistics.median(getattr(call, part) for call in steady)

    measured = options.url is not None and given is None
    compute_s = median("compute_s") if measured else (given or CALLS[name].compute_s)
    up, down = int(median("bytes_up")), int(median("bytes_down"))
    link_s = options.rtt_ms / 1e3 + up * 8 / (options.up_mbit * 1e6) + down * 8 / (options.down_mbit * 1e6)
    own_s = median("pack_s") + median("encode_s") + median("decode_s") + median("worker_decode_s")
    return Row(
        model=CALLS[name].title,
        calls=len(steady),
        first_bytes_up=first.bytes_up,
        bytes_up=up,
        bytes_down=down,
        pack_ms=1e3 * median("pack_s"),
        encode_ms=1e3 * median("encode_s"),
        wire_ms=1e3 * median("wire_s"),
        decode_ms=1e3 * (median("decode_s") + median("worker_decode_s")),
        compute_ms=1e3 * compute_s,
        compute_is="measured" if measured else "given",
        link_ms=1e3 * link_s,
        share_of_compute=(own_s + link_s) / compute_s,
    )


def _print(rows: list[Row], options: argparse.Namespace) -> None:
    print("Per forward call, medians; wire over loopback, in ms and KB (1000 bytes)")
    print(
        f"{'model':<20}{'1st KB up':>10}{'KB up':>9}{'KB down':>9}{'pack':>7}{'encode':>8}{'wire':>8}{'decode':>8}"
        f"{'compute':>10}  {'':8}{'link':>9}{'over compute':>14}"
    )
    for row in rows:
        print(
            f"{row.model:<20}{row.first_bytes_up / 1e3:10.1f}{row.bytes_up / 1e3:9.1f}{row.bytes_down / 1e3:9.1f}"
            f"{row.pack_ms:7.2f}{row.encode_ms:8.2f}{row.wire_ms:8.2f}{row.decode_ms:8.2f}"
            f"{row.compute_ms:10.1f}  {row.compute_is:8}{row.link_ms:9.1f}{row.share_of_compute:14.0%}"
        )
    print(
        f"link: computed for {options.rtt_ms:g} ms RTT, {options.up_mbit:g} Mbit/s up, "
        f"{options.down_mbit:g} Mbit/s down\n"
        "over compute: what offloading adds to each call, relative to its compute time"
    )


def _plot(rows: list[Row], path: Path) -> None:
    import matplotlib  # noqa: PLC0415  # of the `bench` extra

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt  # noqa: PLC0415

    parts: list[tuple[str, str, str]] = [
        ("compute", "compute_ms", "#4477aa"),
        ("link", "link_ms", "#ee6677"),
        ("pack", "pack_ms", "#ccbb44"),
        ("encode", "encode_ms", "#228833"),
        ("decode", "decode_ms", "#66ccee"),
    ]
    figure, axes = plt.subplots(len(rows), 1, figsize=(9, 1.1 * len(rows) + 1.2), squeeze=False)
    for axis, row in zip(axes[:, 0], rows, strict=True):
        left = 0.0
        for label, field, colour in parts:
            value: Any = getattr(row, field)
            axis.barh([row.model], [value], left=left, color=colour, label=label)
            left += value
        axis.set_xlim(0, left * 1.02)
        axis.tick_params(axis="x", labelsize=8)
    axes[0, 0].legend(ncols=len(parts), loc="lower left", bbox_to_anchor=(0, 1.05), frameon=False)
    axes[-1, 0].set_xlabel("ms per forward call (compute and link as in the table)")
    figure.tight_layout()
    figure.savefig(path, dpi=130)


if __name__ == "__main__":
    sys.exit(main())
