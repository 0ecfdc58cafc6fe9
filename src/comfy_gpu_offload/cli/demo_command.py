"""The command `demo`: samples digits through a worker process, compares with local ones, prints the timings."""

from __future__ import annotations

import argparse
import logging
import os
import secrets
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from queue import Empty, Queue

import torch
from tqdm import tqdm

from ..client.connect import connect
from ..client.remote_model import RemoteModel
from ..client.timings import CallTimings
from ..digits import latent, model, sampling
from ..digits.conditioning import conditioning, unconditional
from ..errors import OffloadError
from .arguments import output_file, whole_number
from .exit_status import require

# A thousand pictures are one batch of 2 MB, and a sheet that is still readable.
_MOST_EACH = 100
_PICTURES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff")
_START_S = 180.0
_LABELS = tuple(range(10))
_PREFIX = "listening on "


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's options."""
    parser.add_argument(
        "--steps", type=whole_number(1, 1000), default=20, help="sampling steps, up to 1000 (default: %(default)s)"
    )
    parser.add_argument(
        "--seed", type=whole_number(0, 2**64 - 1), default=0, help="of the noise (default: %(default)s)"
    )
    parser.add_argument(
        "--each",
        type=whole_number(1, _MOST_EACH),
        default=5,
        help=f"pictures of each digit, up to {_MOST_EACH} (default: %(default)s)",
    )
    parser.add_argument(
        "--output",
        type=output_file(_PICTURES),
        default="digits.png",  # as text, so that it is checked as well
        help="where the picture goes (default: %(default)s)",
    )


def run(options: argparse.Namespace) -> int:
    """Run the demo; return exit status 1 if remote and local results differ.

    Raises:
        OffloadError: the worker did not start, or failed.
    """
    require("PIL", "diffusers", "psutil")
    logging.getLogger().setLevel(logging.WARNING)
    labels = [label for _ in range(options.each) for label in _LABELS]
    print("Starting a worker process with the bundled digits model …")
    with worker_process() as (url, token), connect(url, token) as session:
        print(f"  {url}, on {session.welcome.device}")
        remote = session.model("digits")
        print(f"Sampling {len(labels)} digits through it: {options.steps} steps, guidance 2, one call a step")
        through_worker = _sample(remote, labels, options, remote.dtype, "remote")
        print("The same as one job: the whole loop runs on the worker")
        as_one_job, whole = _sample_as_one_job(remote, labels, options)
    local = model.load(remote.dtype)
    here = _sample(local, labels, options, remote.dtype, "local")
    equal = torch.equal(through_worker, here) and torch.equal(as_one_job, here)
    print(f"Remote equals local, bit for bit, both ways: {'yes' if equal else 'NO'}\n")
    _print_timings(remote)
    print(
        f"As one job: {whole.exchanges} request, {whole.bytes_up / 1e3:.1f} KB up, {whole.bytes_down / 1e3:.1f} KB "
        f"down, {whole.total_s * 1e3:.0f} ms; the model and its sampler took {whole.compute_s * 1e3:.0f} ms of it."
    )
    pictures = latent.decode(through_worker)
    latent.contact_sheet(pictures).save(options.output)
    print(f"\nThe pictures are in {options.output}")
    return 0 if equal else 1


def _sample(
    network: torch.nn.Module, labels: list[int], options: argparse.Namespace, dtype: torch.dtype, name: str
) -> torch.Tensor:
    with tqdm(total=options.steps, desc=f"  {name:>6}", unit="step") as bar:
        return sampling.sample(
            network,
            labels,
            steps=options.steps,
            seed=options.seed,
            dtype=dtype,
            callback=lambda *_: bar.update() and None,
        )


def _sample_as_one_job(
    remote: RemoteModel, labels: list[int], options: argparse.Namespace
) -> tuple[torch.Tensor, CallTimings]:
    names = ("context", "pooled")
    job = {
        "latent": torch.zeros(len(labels), latent.CHANNELS, latent.LATENT_SIZE, latent.LATENT_SIZE),
        "positive": dict(zip(names, conditioning(labels), strict=True)),
        "negative": dict(zip(names, unconditional(len(labels)), strict=True)),
    }
    fields = {
        "sampler": "euler",
        "scheduler": "simple",
        "seed": options.seed,
        "steps": options.steps,
        "cfg": 2.0,
    }
    with tqdm(total=options.steps, desc="  remote", unit="step") as bar:
        return remote.sample(fields, job, lambda step, *_: bar.update(step - bar.n) and None)


def _print_timings(remote: RemoteModel) -> None:
    """Print a line for each step, in ms and KB. The first call also loads, warms up, and sends the conditioning."""
    print("Where each step's time went (ms)")
    print("  step    pack  encode    wire   queue  compute  decode   total   KB up  KB down")
    for number, timings in enumerate(remote.timings, start=1):
        print(f"  {number:4}{_row(timings)}")
    total = sum(remote.timings, CallTimings())
    print(f"   all{_row(total)}")
    print(
        f"Of {total.total_s * 1e3:.0f} ms, {total.compute_s / total.total_s:.0%} was the model's own work; the "
        "conditioning crossed once."
    )


def _row(timings: CallTimings) -> str:
    seconds = (
        timings.pack_s,
        timings.encode_s,
        timings.wire_s + timings.worker_decode_s,
        timings.queue_s + timings.load_s,
        timings.compute_s,
        timings.decode_s,
        timings.total_s,
    )
    times = "".join(f"{1e3 * value:{8 if i != 4 else 9}.2f}" for i, value in enumerate(seconds))
    return f"{times}{timings.bytes_up / 1e3:8.1f}{timings.bytes_down / 1e3:9.1f}"


@contextmanager
def worker_process() -> Iterator[tuple[str, str]]:
    """Run a diffusers worker in a process of its own, on a free port of this machine; give its address and token.

    Raises:
        OffloadError: it did not start.
    """
    command = [sys.executable, "-m", "comfy_gpu_offload", "--log-level", "WARNING", "worker"]
    command += ["--backend", "diffusers", "--port", "0"]
    # Settings for another worker do not apply to this one. A token is set because a .env may hold another.
    environment = {name: value for name, value in os.environ.items() if not name.startswith("COMFY_GPU_")}
    environment["COMFY_GPU_OFFLOAD_TOKEN"] = token = secrets.token_urlsafe(32)
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment)  # noqa: S603  # nosec B603
    try:
        yield _address(process), token
    finally:
        process.terminate()
        try:
            process.wait(timeout=30)
        except subprocess.TimeoutExpired:
            process.kill()


def _address(process: subprocess.Popen[str]) -> str:
    lines: Queue[str] = Queue()

    def read() -> None:
        for line in process.stdout or ():
            lines.put(line)
        lines.put("")

    threading.Thread(target=read, daemon=True).start()
    try:
        line = lines.get(timeout=_START_S)
    except Empty:
        line = ""
    if not line.startswith(_PREFIX):
        raise OffloadError("The worker did not start: see its output above.")
    return line.removeprefix(_PREFIX).strip()
