"""Count the round trips from a cold client to the result of its first step, over an emulated link.

    python benchmarks/first_step.py
    python benchmarks/first_step.py --case digits --round-trip 80 --repeats 5
    python benchmarks/first_step.py --comfyui COMFYUI_PYTHON COMFYUI_ROOT

Each measurement begins with a session that is new, but for those of Flux, and ends with the result of the first
call: connection, TLS, handshake, loading, what the call needs to be uploaded, and the call. It is made over a link
with a long round trip and over one with a short one. The difference, in units of the difference of the two, is the
number of round trips: what either side computes is in both and cancels out. Times are the shortest of several,
since only other work on the machine makes them longer. A second table shows the frames that the client sent.

digits         the bundled model, at a worker of plain http
digits, TLS    the same over TLS
large model    a model whose description is as large as Qwen-Image's, with 1 MB of conditioning in the call
LoRA, known    one of 8 MB, which the worker has from another session
LoRA, new      the same, which has to be uploaded
Flux …         a prompt in a session that is open: a text is encoded at the worker, and a latent of 1024² is
               sampled, step by step or as a whole, until the first step's result or report. The worker computes
               nothing. Conditioning stays there, or comes down and goes up again as with older workers. One case
               goes on to the decoded picture, 3.1 MB of 8 bits that no codec makes much smaller.
ComfyUI        a small network from Remote Model Loader, sampled by Remote Sampler; each time a new process
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import ssl
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path
from tempfile import TemporaryDirectory
from time import perf_counter
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).parent))
import arguments
import comfy_gpu_offload
from comfy_gpu_offload.backends.base import Computed, Described, ModuleCall
from comfy_gpu_offload.backends.diffusers.backend import DiffusersBackend
from comfy_gpu_offload.client.exchanges import Exchanges
from comfy_gpu_offload.client.remote_model import RemoteModel
from comfy_gpu_offload.client.weight_patches import WeightPatches
from comfy_gpu_offload.io.digests import digest
from comfy_gpu_offload.io.frame import FrameLimits
from comfy_gpu_offload.protocol.messages import Keep, ModelDescription, ModelRef
from comfy_gpu_offload.server.handler import HandlerOptions
from comfy_gpu_offload.server.http.routes import WorkerState
from comfy_gpu_offload.server.serve import ServeOptions, serve_until_signalled
from comfy_gpu_offload.tuning.link import Link
from digits_worker import digits_worker
from echo_worker import EchoBackend, worker_of
from emulated_link import best_kind, described, emulated
from results import Results, Table, conclude
from worker_process import worker_process

sys.path.append(str(Path(__file__).parents[1]))
from tests.support.tls import self_signed

_SCRIPT = Path(__file__).parents[1] / "tests" / "comfyui" / "scripts" / "first_step.py"
_DIGITS = Path(comfy_gpu_offload.__file__).parent / "digits" / "weights"
_SHORT_MS = 2.0
# Qwen-Image's network has as many weights.
_WEIGHTS = 1933
_LORA_LAYERS, _LORA_WIDTH, _LORA_RANK = 64, 1024, 32
_COLUMNS = {
    "first call of": "case",
    "round trips": "round_trips .1f",
    "ms": "long_s 1e3 .0f",
    "of these not the latency's": "own_s 1e3 .0f",
}
_EXCHANGES = {"first call of": "case", "frame sent": "frame", "after round trips": "begun_at .1f"}


@dataclass(frozen=True)
class Exchange:
    """One exchange of a first call, with the round trips from the beginning until the client sent it."""

    case: str
    frame: str
    begun_at: float


@dataclass(frozen=True)
class Row:
    """One case. Seconds until the first call's result over the long link, and what of them is not its latency."""

    case: str
    round_trips: float
    long_s: float
    own_s: float
    exchanges: tuple[Exchange, ...]


@dataclass(frozen=True)
class Case:
    """A worker, and what a cold client does with it: `run` takes its address and further settings."""

    worker: Callable[[], Any]
    run: Callable[..., Any]
    scheme: str = "http"


class _DescribedEcho(EchoBackend):
    """An echo model with the description of a large one."""

    def describe(self, ref: ModelRef) -> Described:
        """See `Backend`."""
        parts = ("attn.to_q", "attn.to_k", "attn.to_v", "attn.add_q_proj", "img_mlp.net.0.proj", "txt_mlp.net.2")
        keys = {
            f"transformer_blocks.{at // 12}.{parts[at % 6]}.{'weight' if at % 12 < 6 else 'bias'}": (
                (3072, 3072 + at % 7),
                torch.bfloat16,
            )
            for at in range(_WEIGHTS)
        }
        return Described(
            ModelDescription(ref=ref, fingerprint="large" * 8, compute_dtype="float32"), {"keys": keys}
        )


def _digits(url: str, **settings: Any) -> None:
    with comfy_gpu_offload.connect(url, model="digits", **settings) as session:
        model = session.model("digits")
        latent, context, pooled = (_noise(*shape).to(model.dtype) for shape in ((1, 16, 8, 8), (1, 1, 48), (1, 64)))
        model(latent, context, pooled, torch.tensor([500.0]), return_dict=False)


def _large(url: str) -> None:
    with comfy_gpu_offload.connect(url, model="echo") as session:
        session.model("echo")(torch.zeros(1, 16, 128, 128), context=_noise(1, 77, 3400))


def _noise(*shape: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(0))


class _Lora:
    """The weights of a LoRA, and a call that uses it."""

    def __init__(self, seed: int) -> None:
        generator = torch.Generator().manual_seed(seed)
        self.template: dict[str, Any] = {}
        self.tensors: dict[bytes, torch.Tensor] = {}
        for layer in range(_LORA_LAYERS):
            pair = [
                torch.randn(shape, generator=generator).bfloat16()
                for shape in ((_LORA_WIDTH, _LORA_RANK), (_LORA_RANK, _LORA_WIDTH))
            ]
            names = [digest(each) for each in pair]
            self.tensors.update(zip(names, pair, strict=True))
            key = f"diffusion_model.middle_block.1.transformer_blocks.{layer}.attn1.to_q.weight"
            self.template[key] = [[0, "lora", [*names, float(_LORA_RANK)], None, None]]

    def use(self, url: str) -> None:
        """Call the model with it from a new session."""
        patches = WeightPatches(self.template, ((1.0, 1.0),), self.tensors)
        with comfy_gpu_offload.connect(url, model="echo") as session:
            session.model("echo").patched(patches, (torch.zeros(1, 4, 64, 64),), {})


class _FluxEcho(EchoBackend):
    """A text encoder with results of T5-XXL's size, and a model that returns its latent; neither computes."""

    has_modules = True

    def __init__(self, pace_s: float = 0.0) -> None:
        super().__init__(pace_s)
        self._made = (_noise(1, 256, 4096), _noise(1, 768))
        self._picture = _noise(1, 3, 1024, 1024).mul(64).clamp(0, 255).to(torch.uint8)

    def is_repeatable(self, ref: ModelRef, method: str | None) -> bool:
        """See `Backend`."""
        return method == "encode"

    def forward(self, call: ModuleCall) -> Computed:
        """See `Backend`."""
        if call.method == "decode":
            return Computed(self._picture, 0.0, 0.0)
        if call.method != "encode":
            return super().forward(call)
        # Another one for each text: only its first number differs, so that this takes no time.
        made = self._made[0].clone()
        made[0, 0, 0] = call.args[0]
        return Computed((made, self._made[1]), 0.0, 0.0)


class _FluxPrompt:
    """A prompt of Flux's sizes, with a text that is new each time.

    Args:
        whole: whether the run goes to the worker as a whole.
        decoded: whether to go on to the picture.
        kept: whether conditioning stays at the worker.
    """

    def __init__(self, *, whole: bool, kept: bool, decoded: bool = False) -> None:
        self._whole = whole
        self._decoded = decoded
        self._kept = kept
        self._text = 0.0

    def __call__(self, url: str) -> tuple[float, list[tuple[str, float]]]:
        """Return the seconds from the text to the first step or picture, in an open session, and no exchanges."""
        with comfy_gpu_offload.connect(url, model="echo") as session:
            model = session.model("echo")
            self._run(model)
            started = perf_counter()
            seconds = self._run(model) - started
        return seconds, []

    def _run(self, model: RemoteModel) -> float:
        """Run a prompt, and return when its first step was known."""
        self._text += 1.0
        keep: Keep | None = "digests" if self._kept else None
        device = torch.device("cpu")
        cond, pooled = model.patched(None, (self._text,), {}, method="encode", device=device, keep_result=keep)
        if not self._whole:
            latent = torch.randn(1, 16, 128, 128).bfloat16()  # no prediction knows it
            model(latent, context=cond.to(torch.bfloat16), y=pooled.to(torch.bfloat16))
            return perf_counter()
        steps: list[float] = []
        fields = {"sampler": "euler", "scheduler": "simple", "seed": 1, "steps": 1, "cfg": 1.0}
        job = {
            "latent": torch.zeros(1, 16, 128, 128),
            "positive": [[cond, {"pooled_output": pooled}]],
            "negative": [],
        }
        samples, _ = model.sample(fields, job, lambda *_: steps.append(perf_counter()))
        if not self._decoded:
            return steps[0]
        made = samples.to(torch.bfloat16)
        model.note_cast(samples, made)
        model.patched(None, (made,), {}, method="decode", device=device)
        return perf_counter()


class _NewLoras:
    """A call with a LoRA that no worker has seen: another one each time."""

    def __init__(self) -> None:
        self._seed = 1000

    def use(self, url: str) -> None:
        """Make the call from a new session."""
        self._seed += 1
        _Lora(self._seed).use(url)


def _cases(options: argparse.Namespace, stack: ExitStack) -> dict[str, Case]:
    folder = Path(stack.enter_context(TemporaryDirectory(prefix="comfy-gpu-offload-")))
    certificate, key = self_signed(folder)
    echo = partial(worker_of, _DescribedEcho)
    made = {
        "digits": Case(digits_worker, _digits),
        "digits, TLS": Case(
            partial(worker_process, _serve_tls, certificate, key), partial(_digits, ca_file=certificate), "https"
        ),
        "large model": Case(echo, _large),
        "LoRA, known": Case(echo, _Lora(1).use),
        "LoRA, new": Case(echo, _NewLoras().use),
    }
    for whole, way in ((False, "each step"), (True, "whole loop")):
        for kept, where in ((True, "kept"), (False, "sent")):
            run = _FluxPrompt(whole=whole, kept=kept)
            made[f"Flux, {way}, conditioning {where}"] = Case(partial(worker_of, _FluxEcho), run)
    picture = _FluxPrompt(whole=True, kept=True, decoded=True)
    made["Flux, prompt to picture"] = Case(partial(worker_of, _FluxEcho), picture)
    if options.comfyui:
        python, root = options.comfyui
        made["ComfyUI"] = Case(
            partial(_comfyui_worker, python, root), partial(_in_comfyui, python, root, folder / "user")
        )
    return made


def _serve_tls(ready: Connection, certificate: Path, key: Path) -> None:
    tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    tls.load_cert_chain(certificate, key)
    options = ServeOptions("127.0.0.1", 0, HandlerOptions(), lambda address: ready.send(str(address)), tls)
    asyncio.run(serve_until_signalled(WorkerState(FrameLimits()), DiffusersBackend, options))


@contextmanager
def _comfyui_worker(python: str, root: str) -> Iterator[str]:
    command = [python, "-m", "comfy_gpu_offload", "worker", "--backend", "comfyui", "--comfyui", root]
    command += ["--models", str(_DIGITS), "--port", "0", "--cpu"]
    process = subprocess.Popen(  # noqa: S603
        command, env=_environment(python), stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    )
    try:
        lines = (line.strip() for line in process.stdout or ())
        yield next(line for line in lines if line.startswith("listening on ")).removeprefix("listening on ")
    finally:
        process.terminate()
        process.wait()


def _in_comfyui(python: str, root: str, user: Path, url: str) -> tuple[float, list[tuple[str, float]]]:
    user.mkdir(exist_ok=True)
    command = [python, str(_SCRIPT), root, str(user), url]
    done = subprocess.run(command, env=_environment(python), capture_output=True, text=True, check=False)  # noqa: S603
    if done.returncode:
        raise SystemExit(f"the run in ComfyUI failed: {done.stderr[-2000:]}")
    found = json.loads(done.stdout.splitlines()[-1])
    return found["seconds"], found["exchanges"]


def _environment(python: str) -> dict[str, str]:
    return {
        **{name: value for name, value in os.environ.items() if not name.startswith("COMFY_GPU_OFFLOAD_")},
        "PYTHONPATH": str(Path(comfy_gpu_offload.__file__).parents[1]),
        "COMFYUI_PYTHON": python,
    }


def main() -> int:
    """Measure and print the table."""
    options = _options()
    with ExitStack() as stack:
        cases = _cases(options, stack)
        rows = [
            _measured(name, cases[name], options)
            for name in arguments.progress(options.case or list(cases), unit="case")
        ]
    title = f"From nothing to the first call's result, over {options.round_trip:g} ms"
    exchanges = [each for row in rows for each in row.exchanges]
    tables = [Table.of(title, _COLUMNS, rows), Table.of("What the client sent", _EXCHANGES, exchanges)]
    notes = [described(options.kind), *([] if options.comfyui else ["ComfyUI: left out, see --comfyui"])]
    return conclude(Results("first_step", rows, tables, [], {}, notes), options)


def _options() -> argparse.Namespace:
    parser = arguments.parser(__doc__)
    parser.add_argument("--case", nargs="+", help="cases (default: all that there are)")
    parser.add_argument(
        "--round-trip", type=arguments.number(0, 10_000), default=80.0, help="ms, of the long link (%(default)s)"
    )
    parser.add_argument(
        "--rate",
        type=arguments.number(0.01, 1_000_000),
        default=100.0,
        help="Mbit/s each way (default: %(default)s)",
    )
    parser.add_argument(
        "--rate-up", type=arguments.number(0.01, 1_000_000), help="Mbit/s from client to worker, where it differs"
    )
    parser.add_argument("--kind", choices=["tun", "threads"], default=best_kind(), help="of link emulation")
    parser.add_argument("--repeats", type=arguments.positive, default=5, help="of each measurement")
    parser.add_argument("--comfyui", nargs=2, metavar=("PYTHON", "ROOT"), help="a ComfyUI, and its interpreter")
    return parser.parse_args()


def _measured(name: str, case: Case, options: argparse.Namespace) -> Row:
    long_s, short_s = options.round_trip / 1e3, _SHORT_MS / 1e3
    with case.worker() as url:
        port = int(url.rsplit(":", 1)[1])
        case.run(f"{case.scheme}://127.0.0.1:{port}")  # whatever either side does once in its life
        times: dict[float, list[float]] = {}
        shown: tuple[Exchange, ...] = ()
        for round_trip_s in (long_s, short_s):
            rates = [rate * 1e6 / 8 for rate in (options.rate_up or options.rate, options.rate)]
            with emulated(Link(round_trip_s, *rates), port, options.kind) as near:
                for _ in range(options.repeats):
                    with _exchanges() as begun:
                        started = perf_counter()
                        measured = case.run(f"{case.scheme}://127.0.0.1:{near}")
                        seconds = perf_counter() - started
                    trace = [(kind, at - started) for kind, at in begun]
                    if measured is not None:
                        seconds, trace = measured
                    times.setdefault(round_trip_s, []).append(seconds)
                    if round_trip_s == long_s and seconds == min(times[long_s]):
                        shown = tuple(Exchange(name, kind, at / long_s) for kind, at in trace)
    slow, quick = (min(times[each]) for each in (long_s, short_s))
    round_trips = (slow - quick) / (long_s - short_s)
    return Row(name, round_trips, slow, slow - round_trips * long_s, shown)


@contextmanager
def _exchanges() -> Iterator[list[tuple[str, float]]]:
    """Give the list of the exchanges that sessions begin within the block: the frame's route, and when."""
    begun: list[tuple[str, float]] = []
    ask = Exchanges.ask

    def noted(self: Exchanges, route: Any, request: str, frame: Any, *rest: Any) -> Any:
        begun.append((f"{route} {frame.size_bytes / 1e3:.1f} KB", perf_counter()))
        return ask(self, route, request, frame, *rest)

    Exchanges.ask = noted  # type: ignore[method-assign]
    try:
        yield begun
    finally:
        Exchanges.ask = ask  # type: ignore[method-assign]


if __name__ == "__main__":
    sys.exit(main())
