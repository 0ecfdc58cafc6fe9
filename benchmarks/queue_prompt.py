"""Measure the time from ComfyUI's "queue prompt" to the first step, with everything remote, over emulated links.

    python benchmarks/queue_prompt.py COMFYUI_PYTHON COMFYUI_ROOT

A real ComfyUI without a model runs prompts of Flux at 1024² at a worker whose files have the names and shapes
of the real ones, and which returns random values at once. The models are loaded; each prompt has a text and a
seed that are new, so text encoder, sampler and VAE all run. The clock starts when the prompt is posted, as the
frontend does, and stops when the frontend is told of the sampler's first step. *Done* is when it is told that
the picture is written. What the worker takes to draw its random values is not subtracted: `no link` shows that,
and ComfyUI's time.
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
import sys
import uuid
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from time import perf_counter

import aiohttp

sys.path.insert(0, str(Path(__file__).parent))
import arguments
from emulated_link import best_kind, described, emulated
from results import Bound, Results, Table, conclude
from whole_picture import all_remote, comfyui_of, worker_of_shapes

sys.path.append(str(Path(__file__).parents[1]))
from tests.comfyui.harness.api import Graph
from tests.comfyui.harness.checkouts import Checkout, install_requirements
from tests.comfyui.harness.site import REPOSITORY

_COLUMNS = {
    "over": "link",
    "loop": "offload",
    "first step s": "first_step_s .2f",
    "done s": "done_s .2f",
}
_OFFLOADS = ("each step", "whole loop")
_BEYOND_S = 0.3
_PROMPT_S = 120.0


@dataclass(frozen=True)
class Row:
    """Medians of several prompts, in seconds from "queue prompt"."""

    link: str
    offload: str
    first_step_s: float
    done_s: float


def main() -> int:
    """Measure and print the table."""
    options = _options()
    rows = []
    install_requirements(Path(options.python), REPOSITORY / "requirements.txt")
    with ExitStack() as stack, TemporaryDirectory(prefix="comfy-gpu-offload-") as folder:
        port = stack.enter_context(worker_of_shapes(options.python, options.root, Path(folder) / "worker"))
        for link in arguments.progress([None, *options.link], unit="link"):
            with ExitStack() as inner:
                near = port if link is None else inner.enter_context(emulated(link, port, options.kind))
                rows += _measured(str(link or "no link"), near, Path(folder), options)
    tables = [Table.of("From queue prompt, Flux, 1024², everything remote", _COLUMNS, rows)]
    limits = {str(link): link.round_trip_s + _BEYOND_S for link in options.link}
    bounds = [
        Bound.at_most(f"s to the first step, {row.link}, {row.offload}", row.first_step_s, limits[row.link])
        for row in rows
        if row.link in limits
    ]
    return conclude(Results("queue_prompt", rows, tables, bounds, {}, [described(options.kind)]), options)


def _options() -> argparse.Namespace:
    parser = arguments.parser(__doc__)
    parser.add_argument("python", help="the interpreter of a ComfyUI")
    parser.add_argument("root", help="its folder")
    parser.add_argument(
        "--link", type=arguments.link, nargs="+", default=[arguments.link("40/20/100")], help="MS/MBIT/MBIT"
    )
    parser.add_argument("--kind", choices=["tun", "threads"], default=best_kind(), help="of link emulation")
    parser.add_argument("--repeats", type=arguments.positive, default=5, help="of each prompt")
    return parser.parse_args()


def _measured(link: str, port: int, folder: Path, options: argparse.Namespace) -> list[Row]:
    checkout = Checkout(Path(options.root), None)
    base = folder / f"comfyui-{port}"
    rows = []
    with comfyui_of(checkout, Path(options.python), base, port) as (comfyui, _):
        for offload in _OFFLOADS:
            found = []
            for seed in range(options.repeats + 2):  # the first ones load, and open connections
                text = f"a lighthouse on a cliff, {offload}, number {seed}"
                found.append(asyncio.run(_first_step_s(comfyui.api.url, all_remote(offload, seed, text).graph)))
            first, done = (statistics.median(each) for each in zip(*found[2:], strict=True))
            rows.append(Row(link, offload, first, done))
    return rows


async def _first_step_s(url: str, graph: Graph) -> tuple[float, float]:
    """Return the seconds from the prompt's posting to the first step and to its end, as the frontend is told."""
    client, first = uuid.uuid4().hex, 0.0
    async with (
        asyncio.timeout(_PROMPT_S),
        aiohttp.ClientSession(url) as session,
        session.ws_connect("/ws", params={"clientId": client}, max_msg_size=0) as socket,
    ):
        started = perf_counter()
        async with session.post("/prompt", json={"prompt": graph, "client_id": client}) as reply:
            reply.raise_for_status()
        async for message in socket:
            if message.type is not aiohttp.WSMsgType.TEXT:
                continue
            event = message.json()
            kind, data = event["type"], event["data"]
            if kind == "progress" and data["max"] > 1 and not first and data["value"] >= 1:
                first = perf_counter() - started
            elif kind == "execution_error":
                raise SystemExit(f"the prompt failed: {data['node_type']}: {data['exception_message']}")
            elif kind == "execution_success":
                return first, perf_counter() - started
    raise SystemExit("ComfyUI closed the connection before the prompt's end")


if __name__ == "__main__":
    sys.exit(main())
