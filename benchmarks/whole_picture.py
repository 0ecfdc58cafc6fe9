"""Count the bytes of a whole picture, from the prompt to its PNG, and the memory that it takes on this machine.

    python benchmarks/whole_picture.py                                  # a picture and a video alone, over links
    python benchmarks/whole_picture.py --comfyui COMFYUI_PYTHON COMFYUI_ROOT

With a ComfyUI, a real one runs prompts of Flux at 1024², with a worker whose files have the names and shapes of the
real ones, and which returns random values of the right shapes. A proxy between the two counts every byte of their
connection. Latents are noise, so none are compressed; decoded pictures have the statistics of real ones.

all remote             text encoders, model and VAE at the worker
model remote           text encoder and VAE here: what they return is sent, or received
workflow, PNG          what sending the prompt to a ComfyUI at the worker and fetching the file takes

Memory is the resident memory of ComfyUI's process, above what it has before its first prompt.
"""

from __future__ import annotations

import argparse
import json
import os
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path
from tempfile import TemporaryDirectory
from time import perf_counter, sleep
from typing import Any

import psutil
import torch

sys.path.insert(0, str(Path(__file__).parent))
import arguments
import comfy_gpu_offload
from comfy_gpu_offload.backends.base import Computed, ModuleCall
from comfy_gpu_offload.client.timings import CallTimings
from comfy_gpu_offload.tuning.link import Link
from echo_worker import EchoBackend, worker_of
from emulated_link import best_kind, described, emulated
from results import Bound, Results, Table, conclude
from socket_echo import receive_exactly
from synthetic_pictures import picture
from worker_process import worker_process

sys.path.append(str(Path(__file__).parents[1]))
from tests.comfyui.harness.checkouts import Checkout, install_requirements
from tests.comfyui.harness.site import REPOSITORY, ComfyUI, await_comfyui, begin_comfyui, install_pack
from tests.comfyui.harness.workflow import Link as Output
from tests.comfyui.harness.workflow import Workflow
from tests.support.tcp_proxy import TcpProxy, Way

_WORKER = REPOSITORY / "tests" / "comfyui" / "scripts" / "full_size" / "worker.py"
_FLUX = "flux1-dev.safetensors"
_ENCODERS = {"clip_name1": "clip_l.safetensors", "clip_name2": "t5xxl_fp16.safetensors", "type": "flux"}
_AE = "ae.safetensors"
_STEPS = 20
_LINKS = ("40/20/100", "10/50/200")
_COLUMNS = {
    "prompt to PNG": "case",
    "loop": "offload",
    "up MB": "up 1e-6 .2f",
    "down MB": "down 1e-6 .2f",
    "again, up MB": "again_up 1e-6 .2f",
    "again, down MB": "again_down 1e-6 .2f",
    "peak, MB of memory": "peak_mb .0f",
    "afterwards": "after_mb .0f",
}
_LINK_COLUMNS = {
    "over": "link",
    "down MB": "down 1e-6 .2f",
    "coding s": "coding_s .2f",
    "network s": "network_s .2f",
    "bare socket s": "bare_s .2f",
    "link's limit s": "ideal_s .2f",
    "of the bare socket's": "ratio .3f",
}


@dataclass(frozen=True)
class Prompt:
    """One way to make a picture. Bytes of the first prompt, and of the same with another seed.

    Memory in MB above what the process had before; None where there is none to measure.
    """

    case: str
    offload: str
    up: int
    down: int
    again_up: int
    again_down: int
    peak_mb: float | None
    after_mb: float | None


@dataclass(frozen=True)
class Transfer:
    """A decoded picture that came back over a link.

    Attributes:
        coding_s: of the request, at both ends; encoding and decoding the reply are the network's.
        network_s: the rest of the call, without the worker's computing.
        bare_s: what a bare socket takes for as many bytes over the same link; the link's limit is `ideal_s`.
    """

    link: str
    down: int
    coding_s: float
    network_s: float
    bare_s: float
    ideal_s: float

    @property
    def ratio(self) -> float:
        return self.network_s / self.bare_s


class _Counting(TcpProxy[None]):
    """Counts what passes."""

    def __init__(self, target: int) -> None:
        super().__init__(target)
        self.bytes: dict[str, int] = {"up": 0, "down": 0}

    def _new_state(self) -> None:
        return None

    def _passed(self, piece: bytes, way: Way, connection: None) -> tuple[bytes, bool]:
        self.bytes[way] += len(piece)
        return piece, True


class _Painter(EchoBackend):
    """Returns a picture of 1024², in bfloat16 as a VAE computes it."""

    has_modules = True

    def forward(self, call: ModuleCall) -> Computed:
        """See `Backend`."""
        started = perf_counter()
        made = picture(1024, 1024, torch.Generator().manual_seed(int(call.args[0].sum())))[None].bfloat16()
        return Computed(made, 0.0, perf_counter() - started)


def main() -> int:
    """Measure and print the tables."""
    options = _options()
    transfers = [_transfer(link, options) for link in arguments.progress(options.link, unit="link")]
    prompts = _prompts(*options.comfyui) if options.comfyui else []
    tables = [Table.of("A decoded picture of 1024² in bfloat16", _LINK_COLUMNS, [_row(each) for each in transfers])]
    bounds = [
        Bound.at_most(f"picture over {each.link}, times a bare socket", each.ratio, 1.05) for each in transfers
    ]
    notes = [described(options.kind)]
    if prompts:
        tables.insert(0, Table.of(f"Flux, 1024², {_STEPS} steps", _COLUMNS, prompts))
        most = max(each.peak_mb for each in prompts if each.peak_mb is not None and each.case == "all remote")
        bounds.append(Bound.at_most("MB of memory above an idle ComfyUI, all remote", most, 300, ".0f"))
    else:
        notes.append("prompts: left out, see --comfyui")
    return conclude(Results("whole_picture", [*prompts, *map(_row, transfers)], tables, bounds, {}, notes), options)


def _options() -> argparse.Namespace:
    parser = arguments.parser(__doc__)
    parser.add_argument("--comfyui", nargs=2, metavar=("PYTHON", "ROOT"), help="a ComfyUI, and its interpreter")
    parser.add_argument(
        "--link",
        type=arguments.link,
        nargs="+",
        default=list(map(arguments.link, _LINKS)),
        help="MS/MBIT/MBIT: round trip, up, down",
    )
    parser.add_argument("--kind", choices=["tun", "threads"], default=best_kind(), help="of link emulation")
    parser.add_argument("--repeats", type=arguments.positive, default=5, help="of each transfer")
    return parser.parse_args()


def _row(transfer: Transfer) -> dict[str, Any]:
    return {**vars(transfer), "ratio": transfer.ratio}


def _transfer(link: Link, options: argparse.Namespace) -> Transfer:
    """Return the quickest of several transfers, which only other work on the machine makes slower."""
    found: list[CallTimings] = []
    with ExitStack() as stack:
        port = int(stack.enter_context(worker_of(_Painter)).rsplit(":", 1)[1])
        near = stack.enter_context(emulated(link, port, options.kind))
        session = stack.enter_context(comfy_gpu_offload.connect(f"http://127.0.0.1:{near}", model="echo"))
        model = session.model("echo")
        for seed in range(options.repeats + 1):
            calls = model.calls
            latent = torch.full((1, 16, 128, 128), seed / 2**18)
            model.patched(None, (latent,), {}, method="decode", has_pictures=True)
            timing = sum(model.timings_since(calls), CallTimings())
            found.append(timing)
    best = min(found[1:], key=lambda each: each.wire_s)
    bare_s = _bare_s(link, best, options)
    ideal_s = link.ideal_s(best.bytes_up, best.bytes_down)
    return Transfer(str(link), best.bytes_down, best.transfer_s - best.wire_s, best.wire_s, bare_s, ideal_s)


def _bare_s(link: Link, like: CallTimings, options: argparse.Namespace) -> float:
    """Return the seconds of the quickest of several exchanges of as many bytes over one connection.

    The answer is begun as long after the request as the worker's was: TCP is slower after a pause.
    """
    request, reply = bytes(like.bytes_up), memoryview(bytearray(like.bytes_down))
    pause_s = like.compute_s + like.load_s
    found = []
    with (
        worker_process(_answer, len(request), len(reply), pause_s) as port,
        emulated(link, int(port), options.kind) as near,
        socket.create_connection(("127.0.0.1", near), timeout=120) as connection,
    ):
        for _ in range(options.repeats + 1):
            started = perf_counter()
            connection.sendall(request)
            if not receive_exactly(connection, reply):
                raise SystemExit("the bare socket's other end has closed")
            found.append(perf_counter() - started - pause_s)
    return min(found[1:])


def _answer(ready: Connection, up: int, down: int, pause_s: float) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        ready.send(str(server.getsockname()[1]))
        connection, _ = server.accept()
        with connection:
            asked, answer = memoryview(bytearray(up)), bytes(down)
            while receive_exactly(connection, asked):
                sleep(pause_s)
                connection.sendall(answer)


def _prompts(python: str, root: str) -> list[Prompt]:
    checkout = Checkout(Path(root), None)
    install_requirements(Path(python), REPOSITORY / "requirements.txt")
    cases: dict[str, Callable[[str, int], Workflow]] = {"all remote": all_remote, "model remote": _model_remote}
    found, png = [], 0
    with ExitStack() as stack, TemporaryDirectory(prefix="comfy-gpu-offload-") as folder:
        port = stack.enter_context(worker_of_shapes(python, root, Path(folder) / "worker"))
        for case, build in cases.items():
            for offload in ("each step", "whole loop"):
                base = Path(folder) / f"{case} {offload}".replace(" ", "-")
                with comfyui_of(checkout, Path(python), base, port) as (comfyui, counting):
                    found.append(_measured(case, offload, partial(build, offload), comfyui, counting))
                png = max([png, *(path.stat().st_size for path in (base / "output").glob("*.png"))])
    workflow = len(json.dumps({"prompt": all_remote("each step", 1).graph}))
    return [*found, Prompt("workflow, PNG", "-", workflow, png, workflow, png, None, None)]


def _measured(
    case: str, offload: str, build: Callable[[int], Workflow], comfyui: ComfyUI, counting: _Counting
) -> Prompt:
    process = psutil.Process(comfyui.process.pid)
    idle = process.memory_info().rss
    crossed = []
    for seed in (1, 2):
        before = dict(counting.bytes)
        comfyui.run(build(seed).graph, timeout_s=600)
        crossed += [counting.bytes[way] - before[way] for way in ("up", "down")]
    peak, after = _peak_bytes(process.pid), process.memory_info().rss
    return Prompt(case, offload, *crossed, (peak - idle) / 1e6, (after - idle) / 1e6)


def _peak_bytes(pid: int) -> int:
    """Return the most resident memory that a process has had."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM:"))


def _sampled(workflow: Workflow, model: Output, positive: Output, seed: int, offload: str) -> Output:
    return workflow.add(
        "RemoteSampler",
        model=model,
        positive=workflow.add("FluxGuidance", conditioning=positive, guidance=3.5),
        negative=workflow.add("ConditioningZeroOut", conditioning=positive),
        latent_image=workflow.add("EmptySD3LatentImage", width=1024, height=1024, batch_size=1),
        seed=seed,
        steps=_STEPS,
        cfg=1.0,
        sampler_name="euler",
        scheduler="simple",
        denoise=1.0,
        offload=offload,
    )


def _remote_model(workflow: Workflow) -> Output:
    return workflow.add("RemoteModelLoader", model_name=_FLUX, use_runpod=True, weight_dtype="default")


def all_remote(offload: str, seed: int, text: str = "a lighthouse on a cliff at dusk, calm sea") -> Workflow:
    """Return a prompt of Flux whose text encoders, model and VAE are at the worker."""
    workflow = Workflow()
    clip = workflow.add("RemoteDualCLIPLoader", **_ENCODERS, device="default", use_runpod=True)
    positive = workflow.add("CLIPTextEncode", clip=clip, text=text)
    latent = _sampled(workflow, _remote_model(workflow), positive, seed, offload)
    vae = workflow.add("RemoteVAELoader", vae_name=_AE, use_runpod=True)
    image = workflow.add("VAEDecode", samples=latent, vae=vae)
    workflow.add("SaveImage", images=image, filename_prefix=f"picture-{seed}")
    return workflow


def _model_remote(offload: str, seed: int) -> Workflow:
    workflow = Workflow()
    positive = workflow.add("OffloadTestConditioning", seed=3, tokens=256, width=4096, pooled=768, extra="{}")
    latent = _sampled(workflow, _remote_model(workflow), positive, seed, offload)
    workflow.save(latent, "latent")
    return workflow


@contextmanager
def worker_of_shapes(python: str, root: str, folder: Path) -> Iterator[int]:
    """Start a worker with files of the real ones' shapes, and yield its port."""
    folder.mkdir()
    kept = {name: value for name, value in os.environ.items() if not name.startswith("COMFY_GPU_OFFLOAD_")}
    process = subprocess.Popen(  # noqa: S603
        [python, str(_WORKER), root, str(folder)],
        env={**kept, "PYTHONPATH": str(REPOSITORY / "src")},
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    try:
        lines = (line.strip() for line in process.stdout or ())
        yield int(next(line for line in lines if line.startswith("listening on ")).rsplit(":", 1)[1])
    finally:
        process.terminate()
        process.wait()


@contextmanager
def comfyui_of(checkout: Checkout, python: Path, base: Path, port: int) -> Iterator[tuple[ComfyUI, _Counting]]:
    """Start a ComfyUI that has no models, and what counts between it and the worker."""
    base.mkdir()
    install_pack(base)
    nothing = base / "extra_model_paths.yaml"
    nothing.write_text("none:\n  base_path: .\n")
    counting = _Counting(port)
    comfyui = begin_comfyui(checkout, python, base, nothing, {"COMFY_GPU_OFFLOAD_URL": counting.url})
    try:
        await_comfyui(comfyui)
        yield comfyui, counting
    finally:
        comfyui.process.kill()
        counting.close()


if __name__ == "__main__":
    sys.exit(main())
