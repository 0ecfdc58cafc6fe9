"""Creates that leave one thing or none: no pod is made twice, and none is left behind by a caller who has gone.

A create whose reply is lost may have made its pod. It is looked for by its name before another is sent. A caller
who is interrupted while a create is under way gets its pod deleted as soon as RunPod names it.
"""

from __future__ import annotations

import json
import logging
import threading
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass
from typing import Generic, TypeVar

from ...errors import OffloadError, RunPodError
from ...net.clock import Check
from ..api_requests import Reply, Request
from ..retry import Retries
from .api_calls import ApiCalls
from .creation_requests import EndpointRequest, PodRequest, VolumeRequest
from .options import RestOptions
from .reply_models import parsed
from .schema import Named

logger = logging.getLogger(__name__)

Made = TypeVar("Made", bound=Named)
# RunPod adds this to the name of an endpoint with FlashBoot.
_FLASHBOOT = " -fb"


@dataclass(frozen=True)
class Creatable(Generic[Made]):
    """A kind of thing that can be made: its noun, its route, its form, and how it is found and deleted."""

    noun: str
    route: str
    kind: type[Made]
    listed: Callable[[Check | None], Iterable[Made]]
    delete: Callable[[str], None]

    def named(self, name: str, check: Check | None) -> list[Made]:
        """Return those of that name."""
        return [item for item in self.listed(check) if item.name.removesuffix(_FLASHBOOT) == name]


class Creations:
    """Makes things, and knows of the creates whose caller has gone. Thread-safe."""

    def __init__(self, calls: ApiCalls, options: RestOptions) -> None:
        self._calls = calls
        self._options = options
        self._under_way: set[object] = set()
        self._changed = threading.Condition()

    def create(
        self,
        what: Creatable[Made],
        wanted: PodRequest | EndpointRequest | VolumeRequest,
        check: Check | None,
    ) -> Made:
        """Make what is wanted; return it. Whatever this raises, it deletes what was made, as far as it can.

        Raises:
            RunPodError: RunPod refused, failed or could not be asked. With `maybe_submitted`, something of that
                name may be there or appear later all the same.
        """
        request = Request(
            "POST",
            what.route,
            self._options.create_timeout_s,
            json.dumps(wanted.body()).encode(),
            submits=True,
            doubt=f" RunPod may have made the {what.noun} {wanted.name} all the same: look for it with "
            "`comfy-gpu-offload status`, or on https://console.runpod.io.",
            secrets=wanted.secrets(),
        )
        creation = _Creation(what, wanted.name, request)
        try:
            made = self._made(creation, check)
        except BaseException as error:
            is_certain = creation.give_up()
            if isinstance(error, RunPodError) and not is_certain:
                error.maybe_submitted = True
            raise
        creation.keep(made.id)
        return made

    def settle(self, timeout_s: float) -> bool:
        """Wait for creates whose caller has gone; return whether all have ended in time."""
        with self._changed:
            return self._changed.wait_for(lambda: not self._under_way, timeout_s)

    def _made(self, creation: _Creation[Made], check: Check | None) -> Made:
        retries = Retries(self._options.retry, self._calls.clock, check)
        doubts = 0
        while True:
            try:
                return self._sent(creation, check)
            except RunPodError as error:
                if not error.maybe_submitted:
                    if not retries.wait_after(error):
                        raise
                    continue
                doubts += 1
                creation.in_doubt = True
                try:
                    found = self._look(creation, check)
                except RunPodError as unknown:
                    raise error from unknown
                if found is not None:
                    return found
                if doubts >= self._options.creates:
                    raise

    def _sent(self, creation: _Creation[Made], check: Check | None) -> Made:
        token = object()

        def ended() -> None:
            with self._changed:
                self._under_way.discard(token)
                self._changed.notify_all()

        def late(reply: Reply) -> None:
            try:
                creation.late(reply)
            finally:
                ended()

        request = creation.request
        self._calls.await_turn(request, self._options.retry.total_s, check)
        with self._changed:
            self._under_way.add(token)
        reply = self._calls.http.exchange(request, check, late, ended)
        ended()
        self._calls.judge(reply, request)
        return parsed(creation.what.kind, reply, request)

    def _look(self, creation: _Creation[Made], check: Check | None) -> Made | None:
        """Look for what a create with a lost reply may have made. Wait before each look, since lists lag behind."""
        for pause_s in self._options.look_after_s:
            self._calls.clock.wait(pause_s, check)
            found = creation.what.named(creation.name, check)
            if found:
                logger.info("A %s whose create was lost has been found by its name", creation.what.noun)
                return found[0]
        return None


class _Creation(Generic[Made]):
    """One thing to make. Replies may come after their wait was given up, on threads of their own."""

    def __init__(self, what: Creatable[Made], name: str, request: Request) -> None:
        self.what = what
        self.name = name
        self.request = request
        self.in_doubt = False
        self._lock = threading.Lock()
        self._is_over = False
        self._kept: str | None = None
        self._late: list[str] = []

    def late(self, reply: Reply) -> None:
        """Take in the reply to a create that was given up, and delete what it made once nobody wants it."""
        if not 200 <= reply.status < 300:
            return
        with suppress(OffloadError):
            made = parsed(self.what.kind, reply, self.request)
            with self._lock:
                self._late.append(made.id)
                is_over = self._is_over
            if is_over:
                self._delete(made.id)

    def keep(self, kept: str) -> None:
        """End with that one, and delete all others of the name, if more than one create was sent."""
        with self._lock:
            self._is_over, self._kept, late = True, kept, list(self._late)
        self._delete_all(late)

    def give_up(self) -> bool:
        """End with none. Return False if something may be left."""
        with self._lock:
            self._is_over, late = True, list(self._late)
        return self._delete_all(late)

    def _delete_all(self, late: list[str]) -> bool:
        unwanted, is_certain = dict.fromkeys(late), True
        if self.in_doubt:
            try:
                unwanted.update(dict.fromkeys(item.id for item in self.what.named(self.name, None)))
            except OffloadError as error:
                is_certain = False
                logger.warning(
                    "Nothing could be found out about a %s named %s (%s): look with `comfy-gpu-offload status`",
                    *(self.what.noun, self.name, type(error).__name__),
                )
        for made in unwanted:
            is_certain &= self._delete(made)
        return is_certain

    def _delete(self, made: str) -> bool:
        """Delete one, unless it is kept; return False if that fails."""
        if made == self._kept:
            return True
        try:
            self.what.delete(made)
            logger.info("The %s %s, which nobody waits for any more, was deleted", self.what.noun, made)
        except OffloadError as error:
            logger.warning(
                "The %s %s could not be deleted (%s): it bills until `comfy-gpu-offload down --all`",
                *(self.what.noun, made, type(error).__name__),
            )
            return False
        return True
