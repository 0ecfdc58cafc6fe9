"""The wait for a rented machine: from RunPod's word that it is made to a call that its worker answers."""

from __future__ import annotations

from pydantic import SecretStr

from ..client.connect import connect_from
from ..config.address import Address
from ..config.settings import Settings
from ..errors import (
    MachineError,
    OffloadError,
    RunPodAuthError,
    RunPodError,
    RunPodNotFoundError,
    TransportError,
    UnauthorizedError,
    WorkerBusyError,
)
from ..net.clock import Clock
from ..protocol.messages import Welcome
from ..runpod.rest.client import RestClient
from ..runpod.rest.schema import Pod, PodStatus
from ..transport.health import Health, ping
from .context import RentalContext
from .pod_log import PodLog
from .progress import Progress

_POLL_S = 2.0
# After which a user wants to know why nothing happens.
_STALLED_S = 45.0
_LOG_LINES = 8
_AT_THE_END = 20

_STAGES = {
    PodStatus.PROVISIONING: "RunPod looks for a machine",
    PodStatus.STARTING: "the machine fetches the image",
    PodStatus.RUNNING: "the container runs; the worker is being installed and started",
}
_HEALTH = {
    Health.WARMING: "the worker loads",
    Health.READY: "the worker is there; a first call",
}


def wait_for_pod(
    context: RentalContext, pod_id: str, model: str | None = None, clock: Clock | None = None
) -> Welcome:
    """Wait until a call of the pod's worker works; return what the worker says of itself.

    Args:
        context: its settings name the worker: address and token.
        model: loaded there as well, if the worker has it.

    Raises:
        MachineError: the pod ended, vanished, or was not ready within `ready_timeout_s`; says what its log said.
        OffloadError: the worker is there, and no machine like it will do: of another release, for one.
    """
    settings = context.settings
    address = settings.url
    if not isinstance(address, Address):
        raise TypeError("the settings name no address")
    token = settings.token.get_secret_value() if settings.token else None
    with PodLog(context.api, pod_id, [token] if token else []) as log:
        watch = _Watch(settings.ready_timeout_s, context.progress, log, clock or Clock())
        while True:
            pod = _looked_at(context.api, pod_id, watch)
            if pod is not None and pod.status is PodStatus.RUNNING:
                health = ping(address, ca_file=settings.ca_file)
                watch.stage(_HEALTH.get(health, _STAGES[PodStatus.RUNNING]))
                if health is Health.READY:
                    welcome = _call(settings, model, watch)
                    if welcome is not None:
                        return welcome
            elif pod is not None:
                watch.stage(_STAGES.get(pod.status, f"the pod is {pod.status.value.lower()}"))
            watch.look_again()


def call_works(settings: Settings, model: str | None) -> Welcome:
    """Call the worker that `settings` name, where its calls run; load `model` if it has it.

    Raises:
        OffloadError: it does not work.
    """
    with connect_from(settings) as session:
        session.probe()
        if model is not None and any(entry.name == model for entry in session.welcome.models):
            session.model(model)
        return session.welcome


def settings_for(settings: Settings, url: Address, token: SecretStr | None) -> Settings:
    """Return the settings in force, for the worker at `url` and for calls that do not wait long."""
    return settings.model_copy(
        update={
            "url": url,
            "token": token,
            "endpoint": "auto",
            "runpod_endpoint_id": None,
            "retry_s": 5.0,
            "call_timeout_s": min(settings.call_timeout_s, 60.0),
            "capture_dir": None,
        }
    )


def settings_for_endpoint(settings: Settings, url: Address, endpoint_id: str) -> Settings:
    """Return the settings in force, for the endpoint at `url`, whose first worker takes as long as a pod may."""
    return settings.model_copy(
        update={
            "url": url,
            "token": None,  # nosec B105 - none: RunPod's edge takes the account's key
            "endpoint": "load-balancer",
            "runpod_endpoint_id": endpoint_id,
            "wake_timeout_s": settings.ready_timeout_s,
            "capture_dir": None,
        }
    )


class _Watch:
    """The stages of one wait, its deadline, and the log where nothing moves."""

    def __init__(self, timeout_s: float, progress: Progress, log: PodLog, clock: Clock) -> None:
        self._timeout_s = timeout_s
        self._progress = progress
        self._log = log
        self._clock = clock
        self._began = clock.monotonic()
        self._moved = self._began
        self._seen = 0
        self._said_at = -1
        self._stage = ""
        self.last: str | None = None

    def stage(self, text: str) -> None:
        if text != self._stage:
            self._stage = text
            self._moved = self._clock.monotonic()
            self._progress.stage(text)

    def look_again(self) -> None:
        """Wait for the next look.

        Raises:
            MachineError: the time is over.
        """
        now = self._clock.monotonic()
        if now - self._began > self._timeout_s:
            raise self.failed(f"it was not ready after {self._timeout_s / 60:.0f} minutes ({self._stage})")
        count = self._log.count
        if count != self._seen:
            self._seen, self._moved = count, now
            self._progress.detail(self._log.last(1)[0])
        elif now - self._moved > _STALLED_S:
            self._say_log(now)
        self._clock.wait(_POLL_S)

    def failed(self, why: str) -> MachineError:
        """Return the error, with the reason and the end of the log."""
        for line in self._log.last(_AT_THE_END):
            self._progress.note(f"  log: {line}")
        last = f"; last seen: {self.last}" if self.last else ""
        return MachineError(f"{why}{last}")

    def _say_log(self, now: float) -> None:
        """Show the log once for each time that it stands still."""
        self._moved = now
        if self._said_at == self._seen:
            return
        self._said_at = self._seen
        lines = self._log.last(_LOG_LINES)
        self._progress.note("nothing new for a while. " + ("The log's end:" if lines else "There is no log yet."))
        for line in lines:
            self._progress.note(f"  log: {line}")


def _looked_at(api: RestClient, pod_id: str, watch: _Watch) -> Pod | None:
    """Return the pod, or None while RunPod cannot be asked.

    Raises:
        MachineError: it has ended or is gone.
        RunPodAuthError: the key is not valid any more.
    """
    try:
        pod = api.pod(pod_id)
    except RunPodNotFoundError as error:
        raise watch.failed("RunPod has lost the pod") from error
    except RunPodAuthError:
        raise
    except RunPodError as error:
        watch.last = str(error)
        return None
    if pod.status.has_ended:
        raise watch.failed(f"the pod ended by itself: {pod.status.value}")
    return pod


def _call(settings: Settings, model: str | None, watch: _Watch) -> Welcome | None:
    """Return the worker's answer, or None where it may answer later."""
    try:
        return call_works(settings, model)
    except UnauthorizedError as error:
        raise watch.failed("its worker does not take the token that it was made with") from error
    except (TransportError, WorkerBusyError) as error:
        watch.last = str(error)
        return None
    except OffloadError as error:
        watch.last = str(error)
        raise
