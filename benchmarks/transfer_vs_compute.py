"""What forward calls move and cost, against what the model computes meanwhile: over loopback, and over slow links.

    python benchmarks/transfer_vs_compute.py --output DIR
    python benchmarks/transfer_vs_compute.py --link 40/20/100 --run flux --compute flux=0.4

First whole runs of a call a step over emulated links (see emulated_link.py), with every compression setting, beside
the naive stack (see naive_stack.py) and what the link allows: compute + round trip + bytes / bandwidth. The worker
takes the model's time and returns its latent.

Then what a call moves, model by model, over loopback to a worker in another process: calls of SD1.5, SDXL, Flux and
Wan shapes (classifier-free guidance as a batch of 2 where the model uses it), so pack, encode, wire and decode are
measured. Compute is given, by default as rough figures for an RTX 4090, or measured with `--url`, on a worker of
yours. The link's time is computed from what was sent, for the first link.
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
from each_step_runs import SETTINGS, Run, measure
from echo_worker import echo_worker
from emulated_link import Link, best_kind, described

_LINKS = ["40/20/100", "50/100/100", "20/300/300"]


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
    """Measures, prints the tables, writes JSON and the plots."""
    options = _options()
    torch.manual_seed(options.seed)
    given = _given(options.compute)
    links = [Link.of(text) for text in options.link or _LINKS]
    runs = _runs(links, given, options) if options.run != "none" else []
    _print_runs(runs, options)
    rows = _rows(links[0], given, options)
    _print(rows, links[0])
    document = {
        "machine": platform.machine(),
        "torch": torch.__version__,
        "seed": options.seed,
        "links": options.kind,
        "runs": [asdict(run) for run in runs],
        "rows": [asdict(row) for row in rows],
    }
    if options.json:
        options.json.write_text(json.dumps(document, indent=1))
    if options.output:
        options.output.mkdir(parents=True, exist_ok=True)
        (options.output / "transfer_vs_compute.json").write_text(json.dumps(document, indent=1))
        _plot(rows, options.output / "transfer_vs_compute.png")
        if runs:
            _plot_runs(runs, _compute_s(options.run, given), options.output / "each_step_runs.png")
        print(f"JSON and plots are in {options.output}")
    return 0


def _compute_s(name: str, given: dict[str, float]) -> float:
    return given.get(name, CALLS[name].compute_s)


def _runs(links: list[Link], given: dict[str, float], options: argparse.Namespace) -> list[Run]:
    call = CALLS[options.run]
    compute_s = _compute_s(options.run, given)
    return list(
        measure(
            links,
            call.latent,
            call.dtype,
            call.conditioning,
            compute_s=compute_s,
            steps=options.steps,
            seed=options.seed,
            settings=tuple(options.setting),
            kind=options.kind,
        )
    )


def _rows(link: Link, given: dict[str, float], options: argparse.Namespace) -> list[Row]:
    rows = []
    with ExitStack() as stack:
        url = options.url or stack.enter_context(echo_worker())
        session = comfy_gpu_offload.connect(url, options.token, compression=options.compression)
        stack.enter_context(session)
        for name in options.models:
            timings = _run(session.model(options.model_name), CALLS[name], options.calls, options.dtype_cast)
            rows.append(_row(name, timings, given.get(name), link, measured=options.url is not None))
    return rows


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--link", action="append", help="MS/MBIT/MBIT: round trip, up, down; repeat for more")
    parser.add_argument("--kind", choices=["tun", "threads"], default=best_kind(), help="of link emulation")
    parser.add_argument(
        "--run", choices=[*CALLS, "none"], default="flux", help="over the links (default: %(default)s)"
    )
    parser.add_argument("--steps", type=int, default=8, help="of a run, the first apart (default: %(default)s)")
    parser.add_argument("--setting", nargs="+", choices=SETTINGS, default=SETTINGS, help="of compression")
    parser.add_argument("--models", nargs="+", choices=CALLS, default=list(CALLS))
    parser.add_argument("--calls", type=int, default=20, help="per model, the first apart (default: %(default)s)")
    parser.add_argument(
        "--compute", nargs="*", default=[], metavar="MODEL=SECONDS", help="your GPU's time per call"
    )
    parser.add_argument("--compression", choices=SETTINGS, default="none", help="of the calls over loopback")
    parser.add_argument("--url", help="a worker to measure compute on, in place of the built-in echo")
    parser.add_argument("--token", help="that worker's token")
    parser.add_argument("--model-name", default="echo", help="its model, which must take these shapes")
    parser.add_argument("--dtype-cast", action="store_true", help="send the model's compute dtype")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the rows here")
    parser.add_argument("--output", type=Path, metavar="DIR", help="where to write JSON and the plots (PNG)")
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


def _row(name: str, timings: list[CallTimings], given: float | None, link: Link, *, measured: bool) -> Row:
    first, steady = timings[0], timings[1:]

    def median(part: str) -> float:
        return statistics.median(getattr(call, part) for call in steady)

    measured = measured and given is None
    compute_s = median("compute_s") if measured else (given or CALLS[name].compute_s)
    up, down = int(median("bytes_up")), int(median("bytes_down"))
    link_s = link.ideal_s(up, down)
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


def _print_runs(runs: list[Run], options: argparse.Namespace) -> None:
    if not runs:
        return
    print(f"A step of {CALLS[options.run].title}, medians; times in ms, KB of 1000 bytes")
    print(described(options.kind))
    for link in dict.fromkeys(run.link for run in runs):
        print(f"\n{link}")
        print(
            f"  {'':<16}{'1st step':>9}{'step':>9}{'limit':>9}{'step/limit':>12}{'KB up':>9}{'KB down':>9}"
            f"{'network, times below naive':>28}"
        )
        for run in (run for run in runs if run.link == link):
            print(
                f"  {run.way + ('' if run.lossless else ' *'):<16}{run.first_s * 1e3:9.0f}{run.step_s * 1e3:9.0f}"
                f"{run.ideal_s * 1e3:9.0f}{run.ratio:12.2f}{run.bytes_up / 1e3:9.1f}{run.bytes_down / 1e3:9.1f}"
                f"{run.network_gain or 0:28.1f}"
            )
    print("* loses something; limit: compute + round trip + these bytes / bandwidth\n")


def _print(rows: list[Row], link: Link) -> None:
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
        f"link: computed for {link}\nover compute: what offloading adds to each call, relative to its compute time"
    )


def _plot_runs(runs: list[Run], compute_s: float, path: Path) -> None:
    import matplotlib  # noqa: PLC0415  # of the `bench` extra

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt  # noqa: PLC0415

    links = list(dict.fromkeys(run.link for run in runs))
    figure, axes = plt.subplots(1, len(links), figsize=(4.6 * len(links), 4), squeeze=False, sharey=True)
    for axis, link in zip(axes[0], links, strict=True):
        shown = [run for run in runs if run.link == link][::-1]
        names = [run.way + ("" if run.lossless else " *") for run in shown]
        axis.barh(names, [run.step_s * 1e3 for run in shown], color="#ee6677", label="network")
        axis.barh(names, [run.ideal_s * 1e3 for run in shown], color="#ccbb44", label="limit of the link")
        axis.barh(names, [compute_s * 1e3] * len(shown), color="#4477aa", label="compute")
        axis.set(title=link, xlabel="ms a step")
        axis.tick_params(labelsize=8)
    axes[0, 0].legend(loc="lower right", fontsize=8)
    figure.tight_layout()
    figure.savefig(path, dpi=110)


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
