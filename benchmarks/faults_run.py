"""Sampling runs in each of which one thing goes wrong: is the picture exact, and does no run end needlessly?

Each run opens a session with a real worker through a link that kills the worker, cuts the connection, flips a bit,
damages the head of an HTTP message or of a frame of a WebSocket, or goes silent, at a random place of what crosses:
in the first hello, while the model is loaded, in a call of one step, in a whole loop. The worker is started again
when it was killed, and nothing else is wrong a second time: so whatever ends a run, a second try would have mended.

All of that directly and through reverse proxies, which stand between the link and the worker, and are themselves
reloaded and restarted in the middle of further runs.
"""

from __future__ import annotations

import logging
import os
import socket
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from random import Random
from tempfile import TemporaryDirectory
from time import monotonic
from typing import cast

import torch

import arguments
from comfy_gpu_offload import RemoteModel, connect
from comfy_gpu_offload.digits import latent, sampling
from comfy_gpu_offload.digits.conditioning import conditioning, unconditional
from comfy_gpu_offload.errors import OffloadError
from faulty_link import Fault, FaultyLink, Kind
from proxied import DIRECT, available, reverse_proxy, skipped
from proxied import NAMES as PROXIES
from results import Bound, Results, Table, conclude

RUNS: dict[Kind, int] = {
    "kill": 20,
    "cut": 100,
    "flip": 100,
    "head": 100,
    "silence": 20,
    "reload": 10,
    "restart": 10,
}
NAMES: dict[Kind, str] = {
    "kill": "the worker is killed",
    "cut": "the connection is cut",
    "flip": "a bit is flipped",
    "head": "a head is damaged",
    "silence": "the connection goes silent",
    "reload": "the proxy is reloaded",
    "restart": "the proxy is restarted",
}
_OF_PROXIES = frozenset({"reload", "restart"})
_LABELS, _STEPS, _SEED = [3, 1, 4], 4, 7
# Runs that outlast the time for which a reloaded proxy leaves connections as they are.
_LONG_STEPS = 40
_LONGEST_S = 60.0
_SOURCE = Path(__file__).resolve().parents[1] / "src"


@dataclass(frozen=True)
class Outcome:
    """The end of one run: `exact`, `wrong`, `missed` (exact, and nothing was struck) or the type of the error.

    Attributes:
        at: which byte or head was struck.
        seconds: that it took, without those for which a killed worker was not there.
        said: the error's text.
    """

    through: str
    kind: Kind
    whole_loop: bool
    at: int
    ended: str
    seconds: float
    said: str = ""


class Worker:
    """A worker process with the bundled digits model, always at the same port."""

    def __init__(self, folder: Path) -> None:
        with socket.create_server(("127.0.0.1", 0)) as taken:
            self.port = int(taken.getsockname()[1])
        self._folder = folder
        self._process = self._started()
        self._starting: threading.Thread | None = None
        self.away_s = 0.0

    def _started(self) -> subprocess.Popen[str]:
        command = [sys.executable, "-m", "comfy_gpu_offload", "--log-level", "ERROR", "worker", "--cpu"]
        command += ["--backend", "diffusers", "--port", str(self.port)]
        kept = {name: value for name, value in os.environ.items() if not name.startswith("COMFY_GPU_OFFLOAD_")}
        # One thread, as here: a sum over more of them has other last bits.
        env = {**kept, "PYTHONPATH": str(_SOURCE), "OMP_NUM_THREADS": "1"}
        process = subprocess.Popen(  # noqa: S603  # our own command
            command, stdout=subprocess.PIPE, text=True, env=env, cwd=self._folder
        )
        line = process.stdout.readline() if process.stdout is not None else ""
        if not line.startswith("listening on"):
            raise OffloadError("The worker did not start: its messages are above.")
        return process

    def kill(self) -> None:
        self._process.kill()
        self._process.wait()
        self._starting = threading.Thread(target=self._start_again, daemon=True)
        self._starting.start()

    def _start_again(self) -> None:
        began = monotonic()
        self._process = self._started()
        self.away_s = monotonic() - began

    def close(self) -> None:
        if self._starting is not None:
            self._starting.join()
        self._process.kill()
        self._process.wait()


@contextmanager
def started_worker() -> Iterator[Worker]:
    """Yield a worker that ends with the block."""
    with TemporaryDirectory() as folder:
        worker = Worker(Path(folder))
        try:
            yield worker
        finally:
            worker.close()


def sampled(model: RemoteModel, *, whole_loop: bool, steps: int) -> torch.Tensor:
    """Return the latents of a run."""
    if not whole_loop:
        return sampling.sample(model, _LABELS, steps=steps, seed=_SEED, dtype=model.dtype)
    names = ("context", "pooled")
    job = {
        "latent": torch.zeros(len(_LABELS), latent.CHANNELS, latent.LATENT_SIZE, latent.LATENT_SIZE),
        "positive": dict(zip(names, conditioning(_LABELS), strict=True)),
        "negative": dict(zip(names, unconditional(len(_LABELS)), strict=True)),
    }
    fields = {"sampler": "euler", "scheduler": "simple", "seed": _SEED, "steps": steps, "cfg": 2.0}
    value, _ = model.sample(fields, job)
    return cast(torch.Tensor, value)


@dataclass(frozen=True)
class Expected:
    """A run in which nothing went wrong: its latents, and how many bytes and heads crossed."""

    made: torch.Tensor
    bytes: int
    heads: int


class Trials:
    """Runs with faults, over one link to one worker."""

    def __init__(self, through: str, worker: Worker, link: FaultyLink, silence_s: float) -> None:
        self._through = through
        self._worker = worker
        self._link = link
        self._silence_s = silence_s
        self._known: dict[tuple[bool, int], Expected] = {}

    def _picture(self, *, whole_loop: bool, steps: int) -> torch.Tensor:
        """Return what a session of its own samples."""
        with connect(self._link.url, silence_s=self._silence_s, compression="planes") as session:
            return sampled(session.model("digits"), whole_loop=whole_loop, steps=steps)

    def _expected(self, *, whole_loop: bool, steps: int) -> Expected:
        if (whole_loop, steps) not in self._known:
            self._link.arm(None)
            self._picture(whole_loop=whole_loop, steps=steps)  # the worker loads its model
            self._link.arm(None)
            made = self._picture(whole_loop=whole_loop, steps=steps)
            self._known[whole_loop, steps] = Expected(made, self._link.bytes, self._link.heads)
        return self._known[whole_loop, steps]

    def run(self, kind: Kind, number: int, random: Random) -> Outcome:
        whole_loop, steps = bool(number % 2), _LONG_STEPS if kind in _OF_PROXIES else _STEPS
        expected = self._expected(whole_loop=whole_loop, steps=steps)
        at = random.randrange(expected.heads if kind == "head" else expected.bytes)
        self._link.arm(Fault(kind, at, random.randrange(2**32)))
        began, self._worker.away_s, said = monotonic(), 0.0, ""
        try:
            made = self._picture(whole_loop=whole_loop, steps=steps)
        except Exception as error:
            ended, said = type(error).__name__, str(error)
            if not isinstance(error, OffloadError):
                ended = f"untyped {ended}"
        else:
            ended = "exact" if torch.equal(made, expected.made) else "wrong"
        if not self._link.struck:
            ended = "missed" if ended == "exact" else ended
        seconds = monotonic() - began - self._worker.away_s
        return Outcome(self._through, kind, whole_loop, at, ended, seconds, said)


@contextmanager
def started_trials(through: str, worker: Worker, silence_s: float) -> Iterator[Trials]:
    """Yield trials whose link leads to the worker through the proxy of that name."""
    with ExitStack() as stack:
        target, actions = worker.port, {"kill": worker.kill}
        if through != DIRECT:
            front = stack.enter_context(reverse_proxy(through, worker.port))
            target, actions = front.port, {**actions, "reload": front.reload, "restart": front.restart}
        yield Trials(through, worker, stack.enter_context(FaultyLink(target, actions)), silence_s)


def planned(runs: dict[Kind, int], through: list[str]) -> list[tuple[str, Kind, int]]:
    """Return how many runs of each kind to make through each proxy."""
    return [
        (name, kind, count)
        for name in through
        for kind, count in runs.items()
        if count and (name != DIRECT or kind not in _OF_PROXIES)
    ]


def outcomes(
    runs: dict[Kind, int], seed: int, silence_s: float, through: list[str] | None = None
) -> Iterator[Outcome]:
    """Make the runs, each kind by a seed of its own, through each proxy in turn; by default directly."""
    torch.set_num_threads(1)
    with started_worker() as worker:
        for name in through or [DIRECT]:
            with started_trials(name, worker, silence_s) as trials:
                for _, kind, count in planned(runs, [name]):
                    random = Random(f"{seed} {kind}")
                    for number in range(count):
                        made = trials.run(kind, number, random)
                        # A run may cross in a few bytes and heads less than the one that was counted.
                        while made.ended == "missed":
                            made = trials.run(kind, number, random)
                        yield made


def failed(outcome: Outcome) -> bool:
    """Say whether a run ended as none should: wrong, or by what a second try would have mended, or late."""
    return outcome.ended != "exact" or outcome.seconds > _LONGEST_S


def _table(made: list[Outcome]) -> Table:
    rows = []
    for through, kind in dict.fromkeys((outcome.through, outcome.kind) for outcome in made):
        of_kind = [outcome for outcome in made if (outcome.through, outcome.kind) == (through, kind)]
        ended = Counter(outcome.ended for outcome in of_kind)
        errors = len(of_kind) - ended["exact"] - ended["wrong"]
        longest = max(outcome.seconds for outcome in of_kind)
        counts = (len(of_kind), ended["exact"], ended["wrong"], errors)
        rows.append([NAMES[kind], through, *map(str, counts), f"{longest:.1f}"])
    heads = ["what goes wrong", "through", "runs", "exact", "wrong", "errors", "longest, s"]
    return Table("How runs ended in which one thing went wrong", heads, rows)


def results_of(made: list[Outcome]) -> Results:
    """Return what the runs show."""
    wrong = sum(outcome.ended == "wrong" for outcome in made)
    errors = sum(outcome.ended not in {"exact", "wrong"} for outcome in made)
    bounds = [
        Bound.at_most("wrong pictures", wrong, 0, ".0f"),
        Bound.at_most("runs ended by what a second try would have mended", errors, 0, ".0f"),
        Bound.at_most("the longest run, in seconds", max(outcome.seconds for outcome in made), _LONGEST_S, ".1f"),
    ]
    return Results("faults_run", made, [_table(made)], bounds)


def main() -> int:
    """Run the command; the exit status is 1 where a run ended as none should."""
    parser = arguments.parser(__doc__, seed_of="where faults strike")
    for kind, count in RUNS.items():
        parser.add_argument(
            f"--{kind}",
            type=arguments.whole_number(0, 1_000_000),
            default=count,
            help=f"runs in which {NAMES[kind]} ({count})",
        )
    parser.add_argument(
        "--silence-s", type=arguments.number(1, 3600), default=15.0, help="COMFY_GPU_OFFLOAD_SILENCE_S (15)"
    )
    parser.add_argument(
        "--through", nargs="+", choices=PROXIES, default=[DIRECT, "nginx"], help="(default: %(default)s)"
    )
    options = parser.parse_args()
    logging.getLogger().setLevel(logging.ERROR)
    runs: dict[Kind, int] = {kind: getattr(options, kind) for kind in RUNS}
    through = available(options.through)
    made = []
    total = sum(count for _, _, count in planned(runs, through))
    for outcome in arguments.progress(outcomes(runs, options.seed, options.silence_s, through), total=total):
        made.append(outcome)
        if failed(outcome):
            print(f"FAILED {outcome}", flush=True)
    return conclude(replace(results_of(made), notes=skipped(options.through)), options)


if __name__ == "__main__":
    sys.exit(main())
