"""Measures the link to the configured worker and this machine's codecs, and says what to set.

    python benchmarks/tune.py                     # the worker that the environment and .env name
    python benchmarks/tune.py --url http://127.0.0.1:8288 --compute 0.4 --write
    python benchmarks/tune.py --check             # its predictions against measured runs on four emulated links

The step is predicted as compute + coding on both sides + the network with as many bytes as will cross. The network
is measured, not computed from a bandwidth: back to back where both sides keep the connection warm while the model
computes, else after pauses as long as the compute, because an idle TCP connection starts its next transfer slowly.
The worker is taken to code as fast as this machine. `--check` exits with 1 where a prediction is off by more than
15 %.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from time import perf_counter, sleep
from urllib.parse import urlsplit

import requests
import torch
from tqdm import tqdm

sys.path.insert(0, str(Path(__file__).parent))
from comfy_gpu_offload.client.connect import connect_from
from comfy_gpu_offload.client.session import Session
from comfy_gpu_offload.config.endpoint import Direct, configured
from comfy_gpu_offload.config.settings import Settings, given_settings, is_loopback, load_settings
from comfy_gpu_offload.errors import OffloadError
from comfy_gpu_offload.io import codecs
from comfy_gpu_offload.io.buffers import tensor_bytes
from comfy_gpu_offload.io.dtypes import NAMES
from echo_worker import echo_worker
from emulated_link import Kind, Link, best_kind, described, emulated
from env_file import write_setting
from table import rendered

CHOICES = ("auto", "none", "zstd", "planes")
_VARIABLE = "COMFY_GPU_OFFLOAD_COMPRESSION"
_CHECK_LINKS = ("20/100/100", "40/20/100", "50/100/100", "80/50/200")
_BOUND = 0.15
# A frame's header and prelude, roughly.
_FRAME_BYTES = 900
# Transfers until a connection's window has grown, or has shrunk as far as it will; and those that count.
_SETTLING, _COUNTED = 4, 5
# A choice that gains less than this over the default is not worth a setting.
_WORTHWHILE = 0.02


@dataclass(frozen=True)
class Coding:
    """A latent by one setting's codec: bytes stored, and seconds."""

    stored_bytes: int
    encode_s: float
    decode_s: float


@dataclass(frozen=True)
class Prediction:
    """One choice. Seconds; `whole_s` of a step of a run that is one job."""

    choice: str
    warm: bool
    stored_bytes: int
    coding_s: float
    network_s: float
    step_s: float
    whole_s: float


@dataclass(frozen=True)
class Checked:
    """A prediction and what was measured, over one link."""

    link: str
    choice: str
    predicted_s: float
    measured_s: float

    @property
    def error(self) -> float:
        return self.predicted_s / self.measured_s - 1


def main() -> int:
    """Prints what to set, or with `--check` how well that is predicted. Exit status 1 if a bound is not held."""
    options = _options()
    latent = latents(tuple(options.latent), torch.bfloat16, 2, options.seed)[1]
    if options.check:
        return _check(latent, options)
    try:
        settings = given_settings(url=options.url, token=options.token) if options.url else load_settings()
        predictions = list(predict(settings, latent, options.compute, options.steps))
    except OffloadError as error:
        print(error, file=sys.stderr)
        return 1
    _print(predictions, options)
    best = advice(predictions)
    print(f"\nSet {_VARIABLE}={best.choice}")
    faster = "as one job (mode `whole loop`)" if best.whole_s < best.step_s else "a call a step"
    print(f"Faster in the node Remote Sampler: {faster}; its mode `auto` measures that by itself.")
    if options.json:
        options.json.write_text(json.dumps([asdict(each) for each in predictions], indent=1))
    if options.write:
        write_setting(options.env_file, _VARIABLE, best.choice)
        print(f"{options.env_file} has it now.")
        if _VARIABLE in os.environ:
            print(f"{_VARIABLE} is also set in this environment, which counts more than the file.")
    return 0


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--url", help="a worker, in place of the configured one")
    parser.add_argument("--token", help="the token of that worker")
    parser.add_argument("--latent", type=int, nargs="+", default=[1, 16, 128, 128], help="(default: Flux at 1024²)")
    parser.add_argument("--compute", type=float, default=0.6, help="seconds of a model call (default: %(default)s)")
    parser.add_argument("--steps", type=int, default=20, help="of a run (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--write", action="store_true", help="put what to set into the .env file")
    parser.add_argument("--env-file", type=Path, default=Path(".env"), help="(default: %(default)s here)")
    parser.add_argument(
        "--check", action="store_true", help="hold predictions to measured steps, with an echo worker"
    )
    parser.add_argument("--link", action="append", help="for --check: MS/MBIT/MBIT; repeat for more")
    parser.add_argument("--kind", choices=["tun", "threads"], default=best_kind(), help="of link emulation")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the rows here")
    return parser.parse_args()


def latents(shape: tuple[int, ...], dtype: torch.dtype, steps: int, seed: int) -> list[torch.Tensor]:
    """A sampler's inputs, as far as a codec sees them: one picture, with less noise in it each step."""
    generator = torch.Generator().manual_seed(seed)
    picture, noise = torch.randn(shape, generator=generator), torch.randn(shape, generator=generator)
    levels = torch.linspace(1, 1 / (steps + 1), steps + 1).tolist()
    return [((1 - level) * picture + level * noise).to(dtype) for level in levels]


def advice(predictions: list[Prediction]) -> Prediction:
    """The fastest step; the default, `auto`, where that gains next to nothing."""
    best = min(predictions, key=lambda each: each.step_s)
    default = next((each for each in predictions if each.choice == "auto"), best)
    return best if best.step_s < default.step_s * (1 - _WORTHWHILE) else default


def predict(settings: Settings, latent: torch.Tensor, compute_s: float, steps: int) -> Iterator[Prediction]:
    """Each choice, measured over a session of its own.

    Raises:
        OffloadError: the worker cannot be asked.
    """
    for choice in tqdm(CHOICES, leave=False, unit="choice"):
        chosen = settings.model_copy(update={"compression": choice})
        coding = measure_coding(codec_of(chosen), latent)
        warm = keeps_warm(chosen)
        with connect_from(chosen) as session:
            size = coding.stored_bytes + _FRAME_BYTES
            network_s = _network_s(session, size, 0.0 if warm else compute_s)
            job_s = _network_s(session, 2 * latent.nbytes, 0.0)
        coding_s = 2 * (coding.encode_s + coding.decode_s)
        yield Prediction(
            choice=choice,
            warm=warm,
            stored_bytes=coding.stored_bytes,
            coding_s=coding_s,
            network_s=network_s,
            step_s=compute_s + coding_s + network_s,
            whole_s=compute_s + (coding_s + job_s) / steps,
        )


def codec_of(settings: Settings) -> codecs.Codec | codecs.Chooser:
    """What tensors will be stored with: `auto` is none where the worker is on this machine."""
    target = configured(settings)
    near = isinstance(target, Direct) and is_loopback(urlsplit(target.url).hostname or "")
    if settings.compression == "none" or (settings.compression == "auto" and near):
        return codecs.RAW
    return codecs.wanted(settings.compression)


def keeps_warm(settings: Settings) -> bool:
    """Whether both sides will keep the connection warm: see `transport.configured`; the worker's replies tell."""
    target = configured(settings)
    if not isinstance(target, Direct) or target.is_pod:
        return False
    if is_loopback(urlsplit(target.url).hostname or "") and settings.compression == "auto":
        return False
    verify = True if settings.ca_file is None else str(settings.ca_file)
    try:
        reply = requests.get(f"{target.url}/ping", headers={"Keep-Warm": "102"}, timeout=10, verify=verify)
    except requests.RequestException:
        return False
    return "Keep-Warm" in reply.headers


def measure_coding(codec: codecs.Codec | codecs.Chooser, latent: torch.Tensor) -> Coding:
    """Medians on this machine."""
    data, dtype, shape = tensor_bytes(latent), NAMES[latent.dtype], tuple(latent.shape)
    used, payload = codecs.encode(codec, data, dtype, shape)
    arrived = memoryview(bytearray(payload))
    return Coding(
        len(payload),
        _median_s(lambda: codecs.encode(codec, data, dtype, shape)),
        _median_s(lambda: used.decode(arrived, len(data), dtype, shape)),
    )


def _median_s(run: Callable[[], object]) -> float:
    times = []
    for _ in range(15):
        started = perf_counter()
        run()
        times.append(perf_counter() - started)
    return statistics.median(times)


def _network_s(session: Session, size: int, pause_s: float) -> float:
    times = []
    for _ in range(_SETTLING + _COUNTED):
        times.append(session.probe(size, size))
        sleep(pause_s)
    return statistics.median(times[_SETTLING:])


def _print(predictions: Iterable[Prediction], options: argparse.Namespace) -> None:
    heads = ["compression", "connection", "KB", "coding ms", "network ms", "step ms", "as one job, a step"]
    rows = [
        [
            each.choice,
            "kept warm" if each.warm else "idles",
            f"{each.stored_bytes / 1e3:.0f}",
            f"{each.coding_s * 1e3:.1f}",
            f"{each.network_s * 1e3:.0f}",
            f"{each.step_s * 1e3:.0f}",
            f"{each.whole_s * 1e3:.0f}",
        ]
        for each in predictions
    ]
    print(
        f"A latent of {tuple(options.latent)} in bfloat16, {options.compute:g} s of compute, {options.steps} steps"
    )
    print(rendered(heads, rows))


def _check(latent: torch.Tensor, options: argparse.Namespace) -> int:
    rows = []
    with ExitStack() as stack:
        port = int(stack.enter_context(echo_worker(options.compute)).rsplit(":", 1)[1])
        for text in tqdm(options.link or _CHECK_LINKS, unit="link", leave=False):
            rows += _check_link(Link.of(text), port, latent, options)
    print(described(options.kind))
    heads = ["link", "choice", "predicted ms", "measured ms", "off by"]
    cells = [
        [row.link, row.choice, f"{row.predicted_s * 1e3:.0f}", f"{row.measured_s * 1e3:.0f}", f"{row.error:+.1%}"]
        for row in rows
    ]
    print(rendered(heads, cells))
    held = all(abs(row.error) <= _BOUND for row in rows)
    print(f"within {_BOUND:.0%}: {'held' if held else 'NOT HELD'}")
    if options.json:
        shown = [asdict(row) | {"error": row.error} for row in rows]
        options.json.write_text(json.dumps({"links": options.kind, "rows": shown}, indent=1))
    return 0 if held else 1


def _check_link(link: Link, port: int, latent: torch.Tensor, options: argparse.Namespace) -> list[Checked]:
    kind: Kind = options.kind
    rows = []
    with emulated(link, port, kind) as near:
        settings = given_settings(url=f"http://127.0.0.1:{near}")
        for prediction in predict(settings, latent, options.compute, options.steps):
            with connect_from(settings.model_copy(update={"compression": prediction.choice})) as session:
                measured_s = _measured_step_s(session, latent)
            rows.append(Checked(str(link), prediction.choice, prediction.step_s, measured_s))
        with connect_from(settings) as session:
            measured_s = _measured_whole_s(session, latent, options.steps)
        rows.append(Checked(str(link), "one job, a step", prediction.whole_s, measured_s))
    return rows


def _measured_step_s(session: Session, latent: torch.Tensor) -> float:
    model, times = session.model("echo"), []
    for step in range(_SETTLING + _COUNTED):
        again, sigma = latent.clone(), torch.tensor([float(step)])
        again.view(-1)[0] = step  # never the same latent twice
        started = perf_counter()
        model(again, sigma)
        times.append(perf_counter() - started)
    return statistics.median(times[_SETTLING:])


def _measured_whole_s(session: Session, latent: torch.Tensor, steps: int) -> float:
    model = session.model("echo")
    job = {"latent": latent.float(), "positive": [], "negative": []}
    fields = {"sampler": "euler", "scheduler": "simple", "seed": 0, "steps": steps, "cfg": 1.0}
    started = perf_counter()
    model.sample(fields, job)
    return (perf_counter() - started) / steps


if __name__ == "__main__":
    sys.exit(main())
