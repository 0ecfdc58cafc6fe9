"""The handshake of a session: it introduces itself to its worker, and asks it to load models."""

from __future__ import annotations

import logging
from dataclasses import replace
from time import monotonic
from typing import Any, NamedTuple

import torch

from ..errors import (
    ExchangeTimeoutError,
    HttpStatusError,
    MessageError,
    OffloadError,
    TooLargeError,
    WorkerBusyError,
    WorkerFaultError,
)
from ..io.frame import EncodedFrame
from ..protocol.capabilities import CAPABILITIES, announcement, knows
from ..protocol.envelope import seal
from ..protocol.messages import FaultCode, Hello, ModelDescription, ModelRef, Welcome
from ..transport.base import Check, Timeouts
from ..version import __version__
from .background_work import BackgroundWork
from .exchanges import Exchanges, new_request
from .options import SessionOptions
from .retry import Again, Retries, RetryPolicy, after_any, when_awaited, when_connecting
from .worker_faults import expect_answer

logger = logging.getLogger(__name__)

# How often a user who waits is told of it.
_NOTIFY_EVERY_S = 2.0


class Handshake:
    """The handshake of one session, and the worker's latest answer. Thread-safe.

    Attributes:
        client: the session's random name.
        welcome: the worker's latest description of itself.
        capabilities: of that worker, as `protocol.capabilities` names them.
    """

    def __init__(
        self,
        exchanges: Exchanges,
        options: SessionOptions,
        client: str,
        check: Check | None,
        loading: ModelRef | None = None,
    ) -> None:
        """Say hello, and retry for as long as the options say.

        Args:
            loading: a model that `load` will be asked for; it is asked for at the same time.

        Raises:
            TransportError: the worker cannot be reached.
            WorkerFaultError: it refused.
        """
        self._exchanges = exchanges
        self._options = options
        self._is_worker_older = False
        self.client = client
        self._begun: _BegunLoad | None = None
        # An older worker would not understand the later fields, and has not said yet which it knows.
        if loading is not None and not loading.has_later_fields:
            timeouts = self._load_timeouts(monotonic() + options.load_s)
            work = BackgroundWork(lambda check: self._hello(loading, timeouts, check), "load")
            self._begun = _BegunLoad(loading, work)
        judge = when_awaited if options.await_worker else when_connecting
        try:
            self._greet(Retries(options.retry, judge, check, _Waiting(options).tell), check)
        except BaseException:
            self.abandon()
            raise

    def renew(self, check: Check | None = None) -> Welcome:
        """Say hello again, and return the worker's new answer.

        Raises:
            As the first time.
        """
        return self._greet(Retries(self._options.retry, when_connecting, check), check)

    def _greet(self, retries: Retries, check: Check | None) -> Welcome:
        timeouts = replace(self._options.call, prompt=True)
        self.welcome, _ = retries.run(lambda: self._hello(None, timeouts, check))
        # Each call asks for some of them.
        self.capabilities = frozenset(known for known in CAPABILITIES if knows(self.welcome, known))
        return self.welcome

    def load(self, ref: ModelRef, check: Check | None) -> tuple[ModelDescription, Any]:
        """Ask for a model until it is loaded; return its description, and details from the worker's backend.

        A proxy may end a request before the model is loaded; the worker goes on, and is asked again. A worker that
        cannot be reached is waited for as in a call.

        Raises:
            TransportError: the worker cannot be reached.
            WorkerFaultError: it has no such model, or cannot load it.
        """
        begun = self._loaded_early(ref, check)
        if begun is not None:
            return begun
        deadline = monotonic() + self._options.load_s
        waiting = _Waiting(self._options)
        losses = Retries(self._options.retry, when_awaited, check, waiting.tell)
        loading = Retries(RetryPolicy(total_s=self._options.load_s), after_any, check, _tell_of_loading)
        while True:
            try:
                welcome, details = self._hello(ref, self._load_timeouts(deadline), check)
            except WorkerBusyError as error:
                losses.after(error)
                deadline = monotonic() + self._options.load_s  # others' turns do not count
            except (HttpStatusError, ExchangeTimeoutError) as error:
                losses.begin_anew()  # something answers, so the connection is not lost
                loading.after(error)
            except OffloadError as error:
                losses.after(error)
            else:
                return _described(welcome), details

    def _loaded_early(self, ref: ModelRef, check: Check | None) -> tuple[ModelDescription, Any] | None:
        """Return the answer to what was asked for with the first hello; None if `ref` is to be asked for (again).

        Raises:
            WorkerFaultError: the worker has no such model, or cannot load it.
        """
        begun = self._begun
        if begun is None or begun.ref != ref:
            return None
        self._begun = None
        try:
            welcome, details = begun.work.result(check)
        except OffloadError as error:
            if isinstance(error, WorkerFaultError) and after_any(error) is Again.NO:
                raise
            return None
        return _described(welcome), details

    def abandon(self) -> None:
        """Give up what was begun and not asked for yet."""
        begun, self._begun = self._begun, None
        if begun is not None:
            begun.work.abandon()

    def refuse_too_large(self, frame: EncodedFrame) -> None:
        """Refuse a frame that is larger than the worker takes.

        Raises:
            TooLargeError: it is.
        """
        limit = self.welcome.limits.frame_bytes
        if frame.size_bytes > limit:
            raise TooLargeError(
                f"This call takes {frame.size_bytes} bytes, over the {limit} bytes allowed by the worker "
                "(COMFY_GPU_OFFLOAD_FRAME_BYTES there).",
                code=FaultCode.TOO_LARGE.value,
            )

    def _load_timeouts(self, deadline: float) -> Timeouts:
        return replace(
            self._options.call,
            exchange_s=max(1.0, deadline - monotonic()),
            setting="COMFY_GPU_OFFLOAD_LOAD_TIMEOUT_S",
        )

    def _hello(self, ref: ModelRef | None, timeouts: Timeouts, check: Check | None) -> tuple[Welcome, Any]:
        """Say hello, in the older form if the worker refuses the present one; return the reply and its tree.

        A worker of the first release refuses a hello that has `capabilities`. Any worker takes the older form.
        """
        if not self._is_worker_older:
            try:
                return self._hello_once(ref, timeouts, check, among_codecs=False)
            except WorkerFaultError as error:
                if error.code != FaultCode.BAD_MESSAGE.value:
                    raise
        answer = self._hello_once(ref, timeouts, check, among_codecs=True)
        self._is_worker_older = True
        return answer

    def _hello_once(
        self, ref: ModelRef | None, timeouts: Timeouts, check: Check | None, *, among_codecs: bool
    ) -> tuple[Welcome, Any]:
        request = new_request()
        hello = Hello(
            client=self.client,
            package=__version__,
            torch=torch.__version__,
            comfyui=self._options.comfyui,
            model=ref,
            request=request,
            **announcement(among_codecs=among_codecs),
        )
        envelope, _ = self._exchanges.ask("hello", request, seal(hello), timeouts, check)
        return expect_answer(envelope.message, Welcome, self._exchanges.peer), envelope.unpack()


def _described(welcome: Welcome) -> ModelDescription:
    if welcome.model is None:
        raise MessageError("the worker's welcome lacks the model that was asked for")
    return welcome.model


class _BegunLoad(NamedTuple):
    """A model that was asked for before its description was needed."""

    ref: ModelRef
    work: BackgroundWork[tuple[Welcome, Any]]


def _tell_of_loading(error: OffloadError) -> None:
    logger.info("The model is not loaded yet and is asked for again: %s", error)


class _Waiting:
    """Lines for the user, now and then, that a worker is waited for, and why."""

    def __init__(self, options: SessionOptions) -> None:
        self._options = options
        self._started = monotonic()
        self._told_at = float("-inf")

    def tell(self, error: OffloadError) -> None:
        now = monotonic()
        is_refusal = not getattr(error, "retryable", False)  # tried once more, and not waited for
        if is_refusal or now - self._told_at < _NOTIFY_EVERY_S:
            return
        self._told_at = now
        text = (
            str(error)
            if isinstance(error, WorkerBusyError)
            else (
                f"waiting for the worker, {now - self._started:.0f} s of up to {self._options.retry.total_s:g} s "
                f"(COMFY_GPU_OFFLOAD_RETRY_S): {error}"
            )
        )
        if self._options.notify is None:
            logger.info("%s", text)
        else:
            self._options.notify(text)
