"""A sampling run over slow links, a call a step and as one job, against what is predicted and what is possible.

    python benchmarks/whole_loop.py
    python benchmarks/whole_loop.py --link 80/20/100 --steps 20 --compute-ms 100

The worker's model takes a fixed time a call and returns its latent; the link is a proxy of threads (round trip
and rates hold to a percent; TCP's own slow starts are not part of it), or with `--kind tun` real TCP. Bounds that
are held, over the proxy: the whole loop takes at most 1.1 times compute + one round trip + bytes / bandwidth, and
the prediction lies within 20 % of what then happens.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from time import perf_counter
from typing import Any

import torch
from tqdm import tqdm

sys.path.insert(0, str(Path(__file__).parent))
import comfy_gpu_offload
from comfy_gpu_offload.client.plan import Planner, RunShape, compute_of
from echo_worker import echo_worker
from emulated_link import Link, described, emulated

_LINKS = ["20/100/100", "80/20/100", "150/10/50"]
_WHOLE_BOUND, _PREDICTION_BOUND = 1.1, 0.2


def main() -> int:
    """Prints the table; exit status 1 if a bound is not held."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--link", action="append", help="MS/MBIT/MBIT: round trip, up, down; repeat for more")
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--compute-ms", type=float, default=100.0, help="of one call (default: %(default)s)")
    parser.add_argument("--size", type=int, default=128, help="of the latent's sides (default: %(default)s)")
    parser.add_argument("--kind", choices=["tun", "threads"], default="threads", help="of link emulation")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path, help="also write the rows here")
    options = parser.parse_args()
    torch.manual_seed(options.seed)
    rows = []
    with echo_worker(options.compute_ms / 1e3) as url:
        port = int(url.rsplit(":", 1)[1])
        for text in tqdm(options.link or _LINKS, unit="link"):
            link = Link.of(text)
            with emulated(link, port, options.kind) as near:
                rows.append(_measure(link, f"http://127.0.0.1:{near}", options))
    print(described(options.kind))
    _print(rows)
    if options.json:
        options.json.write_text(json.dumps(rows, indent=1))
    held = all(row["held"] for row in rows)
    print(f"bounds: {'held' if held else 'NOT HELD'}")
    return 0 if held else 1


def _measure(link: Link, url: str, options: argparse.Namespace) -> dict[str, Any]:
    latent = torch.randn(1, 16, options.size, options.size)
    conditioning = torch.randn(1, 256, 2048)
    with comfy_gpu_offload.connect(url) as session:
        model = session.model("echo")
        half, sigma = latent.to(torch.bfloat16), torch.ones(1)
        model(half, sigma, context=conditioning)  # both ways bring the conditioning once
        job = {"latent": latent, "positive": [[conditioning, {}]], "negative": []}
        fields = {"sampler": "euler", "scheduler": "simple", "seed": 0, "steps": options.steps, "cfg": 1.0}
        model.sample({**fields, "steps": 1}, job)
        shape = RunShape(options.steps, half.nbytes, half.nbytes, latent.nbytes, latent.nbytes)
        plan = Planner(session).plan(shape, compute_of(model.timings))
        started = perf_counter()
        for step in range(options.steps):
            model(half + step, sigma, context=conditioning)
        each_s = perf_counter() - started
        started = perf_counter()
        _, timings = model.sample(fields, {**job, "latent": latent + 1})
        whole_s = perf_counter() - started
    compute_s = options.steps * options.compute_ms / 1e3
    ideal_s = compute_s + link.ideal_s(timings.bytes_up, timings.bytes_down)
    errors = [plan.each_step_s / each_s - 1, plan.whole_loop_s / whole_s - 1]
    return {
        "link": str(link),
        "requests": timings.exchanges,
        "each_s": each_s,
        "whole_s": whole_s,
        "ideal_s": ideal_s,
        "ratio": whole_s / ideal_s,
        "predicted_each_s": plan.each_step_s,
        "predicted_whole_s": plan.whole_loop_s,
        "errors": errors,
        "held": whole_s <= _WHOLE_BOUND * ideal_s and max(map(abs, errors)) <= _PREDICTION_BOUND,
    }


def _print(rows: list[dict[str, Any]]) -> None:
    heads = ("each step s", "  predicted", "whole loop s", "  predicted", "ideal s", "ratio", "requests")
    print(" " * 26 + "   ".join(heads))
    for row in rows:
        print(
            f"{row['link']:<24}  {row['each_s']:11.2f}   {row['predicted_each_s']:6.2f} {row['errors'][0]:+5.0%}   "
            f"{row['whole_s']:12.2f}   {row['predicted_whole_s']:6.2f} {row['errors'][1]:+5.0%}   "
            f"{row['ideal_s']:7.2f}   {row['ratio']:5.2f}   {row['requests']:8}"
        )


if __name__ == "__main__":
    sys.exit(main())
