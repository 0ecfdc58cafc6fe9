"""Faults while a pod is rented: each ends in a worker that works or in one clear error, and nothing is left."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
from tests.rental.fake_runpod import FakeRunPod
from tests.support.platforms import needs_posix

from comfy_gpu_offload.config.settings import Settings, given_settings
from comfy_gpu_offload.errors import (
    ConfigError,
    MachineError,
    NothingFitsError,
    OffloadError,
    RentalError,
    RunPodAuthError,
    RunPodBalanceError,
    RunPodCapacityError,
    RunPodForbiddenError,
    RunPodNetworkError,
    RunPodRateLimitError,
    RunPodReplyError,
    RunPodRuleError,
    RunPodServerError,
    StillBillingError,
)
from comfy_gpu_offload.net.clock import Clock
from comfy_gpu_offload.rental import client_settings, give_back
from comfy_gpu_offload.rental.context import RentalContext
from comfy_gpu_offload.rental.gpu_choice import Candidate
from comfy_gpu_offload.rental.interruptions import Interruptions
from comfy_gpu_offload.rental.plan import Plan
from comfy_gpu_offload.rental.pods import PodRental
from comfy_gpu_offload.rental.records import Records, Rental
from comfy_gpu_offload.rental.renting import Renting
from comfy_gpu_offload.runpod.rest.schema import Availability, PodStatus

CANDIDATES = tuple(
    Candidate(gpu, gpu, 24, cloud, price, Availability.HIGH)
    for gpu, cloud, price in [("L4", "COMMUNITY", 0.2), ("RTX 4090", "SECURE", 0.4)]
)


class Said:
    """The lines that a user was told. `hook` is called with each stage."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.hook: Callable[[str], None] = lambda _: None

    def stage(self, text: str) -> None:
        self.lines.append(text)
        self.hook(text)

    detail = note = lambda self, text: self.lines.append(text)


@dataclass
class Desk:
    """Everything that a rental takes, and what a test looks at afterwards."""

    api: FakeRunPod
    context: RentalContext
    said: Said
    env_file: Path
    clock: Clock

    def rent(self, candidates: tuple[Candidate, ...] = CANDIDATES) -> Rental:
        with Interruptions() as interruptions:
            context = replace(self.context, interruptions=interruptions)
            pods = PodRental(context, Plan("image:1", "args"), clock=self.clock)
            return Renting(context, pods, self.env_file, self.give_back).rent(candidates)[0]

    @staticmethod
    def give_back(api: object, rental: Rental, progress: object) -> int:
        return give_back.give_back(api, rental, progress, wait=lambda _: None)  # type: ignore[arg-type]

    @property
    def records(self) -> tuple[Rental, ...]:
        return self.context.records.all()

    def interrupt_at(self, stage: str, number: int = signal.SIGINT) -> None:
        def hook(text: str) -> None:
            if stage in text:
                os.kill(os.getpid(), number)

        self.said.hook = hook


@pytest.fixture
def desk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Desk]:
    for name in Settings.model_fields:
        monkeypatch.delenv(f"COMFY_GPU_OFFLOAD_{name.upper()}", raising=False)
    time = [0.0]

    def pass_time(seconds: float) -> None:
        time[0] += seconds

    clock = Clock(monotonic=lambda: time[0], sleep=pass_time)
    settings = given_settings(rental_folder=tmp_path / "rentals", ready_timeout_s=60)
    said = Said()
    env_file = tmp_path / ".env"
    env_file.write_bytes(b"# mine\r\nCOMFY_GPU_OFFLOAD_URL=https://before\r\nOTHER=1\r\n")
    with FakeRunPod() as api:
        context = RentalContext(api, settings, Records(settings.rental_folder), said, Interruptions())  # type: ignore[arg-type]
        yield Desk(api, context, said, env_file, clock)


def test_a_worker_that_answers_is_written_where_the_client_reads_it(desk: Desk) -> None:
    rental = desk.rent()
    assert desk.api.billing == [rental.name]
    assert desk.records == (rental,)
    (wanted,) = desk.api.pods_made
    assert (wanted.gpu_id, wanted.cloud, wanted.ports) == ("L4", "COMMUNITY", ("8288/http",))
    lines = desk.env_file.read_bytes().split(b"\r\n")
    token = wanted.env["COMFY_GPU_OFFLOAD_TOKEN"].get_secret_value()
    assert lines[:3] == [b"# mine", f"COMFY_GPU_OFFLOAD_URL={rental.url}".encode(), b"OTHER=1"]
    assert f"COMFY_GPU_OFFLOAD_TOKEN={token}".encode() in lines
    assert not any(token in line for line in desk.said.lines)
    assert client_settings.put_back(rental)
    assert desk.env_file.read_bytes() == b"# mine\r\nCOMFY_GPU_OFFLOAD_URL=https://before\r\nOTHER=1\r\n"


def _lost(desk: Desk, *, made: bool) -> None:
    """Have the reply to a create be lost, as the client tells it once it has looked for the pod."""

    def lose(wanted: object) -> None:
        if made:
            desk.api.make(wanted)  # type: ignore[arg-type]
        raise RunPodNetworkError("the reply was lost", connected=True, maybe_submitted=True)

    desk.api.faults["create_pod"].append(lose)


def _fails_with(method: str, *errors: BaseException | None) -> Callable[[Desk], None]:
    return lambda desk: desk.api.faults[method].extend(errors)


def _always(method: str, error: BaseException) -> Callable[[Desk], None]:
    return lambda desk: desk.api.always.update({method: error})


def _first_pod(status: PodStatus) -> Callable[[Desk], None]:
    """Have the first pod end in a status, and others run."""

    def arrange(desk: Desk) -> None:
        def look() -> None:
            names = {each.name for each in desk.api.pods_made}
            desk.api.statuses = [status] if len(names) == 1 else [PodStatus.RUNNING]

        desk.api.faults["pod"].extend([look] * 50)

    return arrange


def _first_vanishes(desk: Desk) -> None:
    desk.api.faults["pod"].extend([None, desk.api.vanish])


def _first_lies(desk: Desk) -> None:
    """Have the first pod run without a worker."""
    desk.api.workers_start = False

    def begin(_: object) -> None:
        desk.api.workers_start = True

    desk.api.faults["create_pod"].extend([None, begin])


def _first_logs_break(desk: Desk) -> None:
    desk.api.always["pod_logs"] = RunPodServerError("the log is gone", status=500)


def _two_by_the_same_name(desk: Desk) -> None:
    """Have RunPod take a create twice, and the first pod fail: both are to be given back."""
    desk.api.faults["create_pod"].append(desk.api.make)
    _first_pod(PodStatus.ERROR)(desk)


_SERVER, _NETWORK = RunPodServerError("broken", status=500), RunPodNetworkError("away", connected=False)

PASSING: dict[str, Callable[[Desk], None]] = {
    "no capacity at first": _fails_with("create_pod", RunPodCapacityError("none left", status=400)),
    "a create's reply is lost, with the pod made": lambda desk: _lost(desk, made=True),
    "a create's reply is lost, without a pod": lambda desk: _lost(desk, made=False),
    "a create breaks at RunPod": _fails_with("create_pod", _SERVER),
    "creates are limited": _fails_with("create_pod", RunPodRateLimitError("wait", status=429)),
    "the pod exits": _first_pod(PodStatus.EXITED),
    "the pod fails": _first_pod(PodStatus.ERROR),
    "the pod is terminated": _first_pod(PodStatus.TERMINATED),
    "the pod vanishes": _first_vanishes,
    "RUNNING is a lie": _first_lies,
    "looks at the pod fail for a while": _fails_with("pod", _NETWORK, _SERVER, _NETWORK),
    "a look is refused for too many requests": _fails_with("pod", RunPodRateLimitError("wait", status=429)),
    "the log cannot be read": _first_logs_break,
    "a deletion fails at first": lambda desk: (
        _first_pod(PodStatus.ERROR)(desk),
        desk.api.faults["delete_pod"].extend([_NETWORK, _SERVER]),
    )[0],
    "the list fails at first, when one is given back": lambda desk: (
        _first_pod(PodStatus.ERROR)(desk),
        desk.api.faults["pods"].extend([_NETWORK]),
    )[0],
    "two pods of one name": _two_by_the_same_name,
    "the network is away at first": _fails_with("create_pod", RunPodNetworkError("away", connected=False)),
}


@needs_posix
@pytest.mark.parametrize("arrange", PASSING.values(), ids=PASSING.keys())
def test_faults_that_pass(desk: Desk, arrange: Callable[[Desk], None]) -> None:
    arrange(desk)
    rental = desk.rent()
    assert desk.api.billing == [rental.name]
    assert desk.records == (rental,)


def _worker_with_another_token(desk: Desk) -> None:
    desk.api.worker_token = "another-token"


def _nothing_ever_answers(desk: Desk) -> None:
    desk.api.workers_start = False


def _env_cannot_be_written(desk: Desk) -> None:
    desk.said.hook = lambda text: desk.env_file.write_bytes(b"\xff\xfe") if "first call" in text else None


def _record_cannot_be_written(desk: Desk) -> None:
    folder = desk.context.settings.rental_folder
    assert folder is not None
    folder.rmdir()
    folder.write_text("a file where the folder was")


def _disk_full_after_the_create(desk: Desk) -> None:
    folder = desk.context.settings.rental_folder
    assert folder is not None

    def fill(wanted: object) -> None:
        for file in folder.iterdir():
            file.rename(folder.parent / "kept")
        folder.rmdir()
        folder.write_text("")

    desk.api.faults["create_pod"].append(fill)


FINAL: dict[str, tuple[Callable[[Desk], None], type[OffloadError]]] = {
    "no capacity at all": (
        _always("create_pod", RunPodCapacityError("none left", status=400)),
        NothingFitsError,
    ),
    "no credit": (_always("create_pod", RunPodBalanceError("no credit", status=402)), RunPodBalanceError),
    "a rule is broken": (_always("create_pod", RunPodRuleError("image", status=422)), RunPodRuleError),
    "the key may not": (_always("create_pod", RunPodForbiddenError("no", status=403)), RunPodForbiddenError),
    "the key is withdrawn before the create": (
        _always("create_pod", RunPodAuthError("no", status=401)),
        RunPodAuthError,
    ),
    "RunPod is broken": (_always("create_pod", _SERVER), RunPodServerError),
    "the network is away": (_always("create_pod", _NETWORK), RunPodNetworkError),
    "no reply is of the right form": (_always("create_pod", RunPodReplyError("odd")), RunPodReplyError),
    "no machine ever answers": (_nothing_ever_answers, MachineError),
    "the worker takes another token": (_worker_with_another_token, MachineError),
    "the .env is spoilt meanwhile": (_env_cannot_be_written, ConfigError),
    "the record cannot be written": (_record_cannot_be_written, ConfigError),
    "the disk is full after the create": (_disk_full_after_the_create, ConfigError),
    "looks are never answered": (_always("pod", _NETWORK), MachineError),
}


@needs_posix
@pytest.mark.parametrize(("arrange", "error"), FINAL.values(), ids=FINAL.keys())
def test_faults_that_stay(desk: Desk, arrange: Callable[[Desk], None], error: type[OffloadError]) -> None:
    arrange(desk)
    with pytest.raises(error) as raised:
        desk.rent()
    assert type(raised.value) is error
    assert str(raised.value)
    assert desk.api.billing == []
    folder = desk.context.settings.rental_folder
    assert folder is not None
    assert not folder.is_dir() or desk.records == ()


STAGES = ["renting", "looks for a machine", "fetches the image", "a first call"]


@needs_posix
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP], ids=lambda each: each.name)
@pytest.mark.parametrize("stage", STAGES)
def test_an_interruption_gives_back_at_once(desk: Desk, stage: str, number: int) -> None:
    desk.interrupt_at(stage, number)
    with pytest.raises(KeyboardInterrupt):
        desk.rent()
    assert desk.api.billing == []
    assert desk.records == ()
    assert desk.env_file.read_bytes().startswith(b"# mine\r\nCOMFY_GPU_OFFLOAD_URL=https://before\r\n")


@needs_posix
def test_an_interruption_during_the_create_comes_after_it(desk: Desk) -> None:
    desk.api.faults["create_pod"].append(lambda _: os.kill(os.getpid(), signal.SIGINT))
    with pytest.raises(KeyboardInterrupt):
        desk.rent()
    assert len(desk.api.pods_made) == 1
    assert desk.api.billing == []


@needs_posix
def test_more_interruptions_do_not_end_the_cleaning_up(desk: Desk) -> None:
    desk.interrupt_at("fetches the image")
    desk.api.faults["delete_pod"].extend([lambda: os.kill(os.getpid(), signal.SIGINT)] * 2)
    desk.api.faults["pods"].append(lambda: os.kill(os.getpid(), signal.SIGTERM))
    with pytest.raises(KeyboardInterrupt):
        desk.rent()
    assert desk.api.billing == []


@needs_posix
def test_an_interruption_while_a_failed_machine_is_given_back_ends_the_work(desk: Desk) -> None:
    _first_pod(PodStatus.ERROR)(desk)
    desk.api.faults["delete_pod"].append(lambda: os.kill(os.getpid(), signal.SIGINT))
    with pytest.raises(KeyboardInterrupt):
        desk.rent()
    assert desk.api.billing == []
    assert len(desk.api.pods_made) == 1


@needs_posix
@pytest.mark.parametrize(
    "error", [_NETWORK, _SERVER, RunPodAuthError("no", status=401)], ids=lambda e: type(e).__name__
)
def test_what_cannot_be_given_back_is_named_with_the_command(desk: Desk, error: OffloadError) -> None:
    _first_pod(PodStatus.ERROR)(desk)
    desk.api.always["delete_pod"] = error
    with pytest.raises(StillBillingError) as raised:
        desk.rent()
    (name,) = desk.api.billing
    assert f"comfy-gpu-offload down {name}" in str(raised.value)
    assert "pod0" in str(raised.value)
    (rental,) = desk.records  # for `down`
    assert (rental.name, rental.id) == (name, "pod0")


@needs_posix
def test_a_pod_that_down_takes_away_meanwhile_is_not_replaced(desk: Desk) -> None:
    def take_away() -> None:
        desk.api.vanish()
        for each in desk.records:
            desk.context.records.forget(each.name)

    desk.api.faults["pod"].extend([None, take_away])
    with pytest.raises(RentalError, match="by another command"):
        desk.rent()
    assert len(desk.api.pods_made) == 1


@needs_posix
def test_the_intent_is_on_disk_before_the_create(desk: Desk) -> None:
    seen: list[Rental] = []
    desk.api.faults["create_pod"].append(lambda _: seen.extend(desk.records))
    rental = desk.rent()
    assert [(each.name, each.id) for each in seen] == [(rental.name, None)]
