"""Measure whole runs with a call per step over emulated links: the time of a step with each encoding.

    python benchmarks/transfer_vs_compute.py --check
    python benchmarks/transfer_vs_compute.py --model sdxl flux --link 40/20/100 50/100/100 --output DIR
    python benchmarks/transfer_vs_compute.py --compute flux=0.4 --way raw auto --through nginx

Beside the naive stack (see naive_stack.py), and the limit: compute + round trip + bytes / bandwidth, with the
bytes of that way. The runs are those of a trained model in each model's shapes (see mosaic.py); their compute is
given, by default as rough figures for an RTX 4090. Links are emulated with real TCP where the system allows it (see
emulated_link.py), and the output says which.

`--check` exits with 1 unless the network's part of a Flux step over 40 ms and 20/100 Mbit/s with 0.6 s of compute
is at least 30 times below the naive stack's, and at most two round trips + what the reply takes at line rate,
unless such a step takes at most 5 % longer through each proxy, and unless every lossless way ends in the
uncompressed run's latent, bit for bit.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import torch

sys.path.insert(0, str(Path(__file__).parent))
import arguments
import naive_stack
import plots
from each_step_runs import PROXIED_WAYS, WAYS, Model, Plan, Run, measure
from emulated_link import best_kind, described
from proxied import DIRECT, NAMES, available, skipped
from results import Bound, Results, Table, conclude

if TYPE_CHECKING:
    from matplotlib.figure import Figure

MODELS = {
    "sd15": Model("SD1.5 512²", torch.float16, (2, 4, 64, 64), {"context": (2, 77, 768)}, 0.04),
    "sdxl": Model("SDXL 1024²", torch.float16, (2, 4, 128, 128), {"context": (2, 77, 2048), "y": (2, 2816)}, 0.17),
    "flux": Model(
        "Flux 1024²",
        torch.bfloat16,
        (1, 16, 128, 128),
        {"context": (1, 512, 4096), "y": (1, 768), "guidance": (1,)},
        0.6,
    ),
    "wan": Model("Wan 14B 832x480x81", torch.bfloat16, (2, 16, 21, 60, 104), {"context": (2, 512, 4096)}, 10.0),
}
# The link and the run for which bounds are held.
_HELD_LINK, _HELD_MODEL, _HELD_WAY, _HELD_COMPUTE_S = "40/20/100", "flux", "auto", 0.6
_LEAST_GAIN = 30.0
_MOST_OF_DIRECT = 1.05
_COLUMNS = {
    "through": "through",
    "way": "way",
    "1st step ms": "first_s 1e3 .0f",
    "step ms": "step_s 1e3 .0f",
    "limit ms": "limit_s 1e3 .0f",
    "step / limit": "ratio .2f",
    "network ms": "network_s 1e3 .0f",
    "coding ms": "coding_s 1e3 .1f",
    "KB up": "bytes_up 1e-3 .1f",
    "KB down": "bytes_down 1e-3 .1f",
    "naive / this": "gain .1f",
    "equal": "equal",
}


def main() -> int:
    """Measures and prints the tables; with `--check`, exit status 1 where a bound is not held."""
    options = _options()
    torch.manual_seed(options.seed)
    links = options.link
    given = dict(options.compute)
    runs = [
        run
        for name in options.model
        for run in measure(
            Plan(
                MODELS[name],
                given.get(name, MODELS[name].compute_s),
                links,
                ways=options.way,
                naive=options.naive,
                steps=options.steps,
                seed=options.seed,
                kind=options.kind,
                through=available(options.through),
            )
        )
    ]
    results = Results(
        "transfer_vs_compute",
        runs,
        list(_tables(runs)),
        list(_bounds(runs)),
        {"transfer_vs_compute": lambda: _figure(runs)},
        [
            described(options.kind),
            *skipped(options.through),
            "Medians of steps after the third, KB of 1000 bytes. limit: compute + round trip + these bytes / "
            "bandwidth; network: of a step beyond its compute; equal: whether the final latent is the raw run's, "
            "bit for bit.",
        ],
    )
    return conclude(results, options, check=options.check)


def _options() -> argparse.Namespace:
    parser = arguments.parser(__doc__, seed_of="the run's noise")
    parser.add_argument("--model", nargs="+", choices=MODELS, default=["flux"], help="(default: %(default)s)")
    parser.add_argument(
        "--link",
        type=arguments.link,
        nargs="+",
        default=[arguments.link(_HELD_LINK)],
        help=f"MS/MBIT/MBIT: round trip, up, down (default: {_HELD_LINK})",
    )
    parser.add_argument("--kind", choices=["tun", "threads"], default=best_kind(), help="of link emulation")
    parser.add_argument(
        "--through",
        nargs="*",
        choices=NAMES[1:],
        default=[],
        help=f"reverse proxies, through which {' and '.join(PROXIED_WAYS)} are measured beside the direct runs",
    )
    parser.add_argument("--way", nargs="+", choices=WAYS, default=list(WAYS), help="to store tensors")
    parser.add_argument(
        "--naive",
        nargs="*",
        choices=naive_stack.FORMATS,
        default=list(naive_stack.FORMATS),
        help="stacks beside them",
    )
    parser.add_argument(
        "--steps",
        type=arguments.whole_number(5, 1000),
        default=10,
        help="of a run, 5 or more (default: %(default)s)",
    )
    parser.add_argument(
        "--compute",
        type=arguments.pair(MODELS, arguments.seconds),
        nargs="*",
        default=[],
        metavar="MODEL=SECONDS",
        help="your GPU's time per call",
    )
    parser.add_argument("--check", action="store_true", help="exit with 1 where a bound is not held")
    return parser.parse_args()


def _tables(runs: list[Run]) -> list[Table]:
    places = dict.fromkeys((run.model, run.link, run.compute_s) for run in runs)
    return [
        Table.of(
            f"{model} over {link}, {compute_s:g} s of compute",
            _COLUMNS,
            [_shown(run) for run in runs if (run.model, run.link) == (model, link)],
        )
        for model, link, compute_s in places
    ]


def _shown(run: Run) -> dict[str, object]:
    equal = None if run.equal is None else "yes" if run.equal else "NO" if run.lossless else "lossy"
    return {**vars(run), "equal": equal}


def _bounds(runs: list[Run]) -> list[Bound]:
    lossless = [run for run in runs if run.lossless and run.equal is not None]
    bounds = []
    if lossless:
        unequal = sum(not run.equal for run in lossless)
        bounds.append(Bound.at_most("lossless runs that end in another latent", unequal, 0, ".0f"))
    link = arguments.link(_HELD_LINK)
    held = [run for run in runs if (run.model, run.link) == (MODELS[_HELD_MODEL].title, str(link))]
    for run in held:
        if (run.way, run.through, run.compute_s) != (_HELD_WAY, DIRECT, _HELD_COMPUTE_S):
            continue
        most_ms = 1e3 * (2 * link.round_trip_s + run.bytes_down / link.down_bytes_s)
        what = f"{run.model} over {run.link}, {run.way}"
        bounds.append(Bound.at_most(f"{what}, network ms of a step", 1e3 * run.network_s, most_ms, ".0f"))
        if run.gain is not None:
            bounds.append(Bound.at_least(f"{what}, naive network / this", run.gain, _LEAST_GAIN, ".1f"))
        bounds += [
            Bound.at_most(
                f"{what}, a step through {other.through} / direct",
                other.step_s / run.step_s,
                _MOST_OF_DIRECT,
                ".3f",
            )
            for other in held
            if other.way == run.way and other.through != run.through
        ]
    return bounds


def _label(run: Run) -> str:
    through = "" if run.through == DIRECT else f", {run.through}"
    return run.way + through + ("" if run.lossless else " *")


def _figure(runs: list[Run]) -> Figure:
    places = list(dict.fromkeys((run.model, run.link) for run in runs))
    links = len({link for _, link in places})
    figure, axes = plots.panels(len(places) // links, links, height=2.8)
    for axis, place in zip(axes, places, strict=True):
        shown = [run for run in runs if (run.model, run.link) == place]
        names = [_label(run) for run in shown]
        for label, part, colour in (
            ("beyond the limit", lambda run: run.step_s, plots.RED),
            ("limit of the link", lambda run: run.limit_s, plots.YELLOW),
            ("compute", lambda run: run.compute_s, plots.BLUE),
        ):
            axis.barh(names, [part(run) for run in shown], color=colour, label=label)
        axis.invert_yaxis()
        # The naive stack is far off; the rest is what there is to tell apart.
        ours = [run.step_s for run in shown if run.way in WAYS] or [run.step_s for run in shown]
        right = 1.25 * max(ours)
        axis.set_xlim(0, right)
        for line, run in enumerate(shown):
            axis.text(min(run.step_s, 0.9 * right), line, f" {run.step_s:.2f}", va="center", fontsize=7)
        axis.set(title=": ".join(place), xlabel="s a step (* loses something)")
    plots.legend(figure, axes[0])
    return figure


if __name__ == "__main__":
    sys.exit(main())
