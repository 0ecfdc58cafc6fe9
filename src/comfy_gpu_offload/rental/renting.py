"""The renting of a worker: candidates in turn, each made, waited for, and given back unless a call of it works."""

from __future__ import annotations

import secrets
from collections import deque
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Protocol

from pydantic import SecretStr

from ..errors import (
    MachineError,
    NothingFitsError,
    OffloadError,
    RentalError,
    RunPodAuthError,
    RunPodBalanceError,
    RunPodCapacityError,
    RunPodError,
    RunPodForbiddenError,
    RunPodNetworkError,
    RunPodRateLimitError,
    RunPodRuleError,
    RunPodServerError,
    StillBillingError,
)
from ..protocol.messages import Welcome
from ..runpod.rest.client import RestClient
from . import client_settings
from .context import RentalContext
from .give_back import give_back, still_billing
from .gpu_choice import Candidate
from .names import new_name
from .progress import Progress
from .records import Kind, Rental

# Of machines that fail or are not ready in time: each costs minutes and cents.
_MOST_FAILURES = 3
# What RunPod answers before it makes anything, so that there is nothing to give back.
_NOTHING_MADE = (RunPodAuthError, RunPodBalanceError, RunPodCapacityError, RunPodRuleError)
# What RunPod may say of one GPU alone: 403 of a kind that the account may not have, 400 in words that it does not
# document. Said of every candidate, it is of the key or of the request.
_OF_ONE_CANDIDATE = frozenset({400, 403})
# What may pass with the next attempt.
_PASSING = (MachineError, RunPodNetworkError, RunPodServerError, RunPodRateLimitError)


class Rentable(Protocol):
    """A kind of thing that can be rented: a pod, or an endpoint."""

    @property
    def kind(self) -> Kind:
        """The kind, as records have it."""

    def make(self, rental: Rental, candidate: Candidate) -> str:
        """Ask RunPod for it; return its id.

        Raises:
            RunPodError: it could not be made.
        """

    def wait(self, rental: Rental) -> tuple[str, Welcome]:
        """Wait until a call of its worker works; return its address and what it says of itself.

        Raises:
            MachineError: it failed, or was not ready in time.
        """

    def client_settings(self, rental: Rental) -> dict[str, str | None]:
        """Return the settings by which a client reaches it."""


class Renting:
    """The renting of one worker. Whatever happens, nothing is left billing that it does not return."""

    def __init__(
        self,
        context: RentalContext,
        rentable: Rentable,
        env_file: Path,
        give_back: Callable[[RestClient, Rental, Progress], int] = give_back,
    ) -> None:
        """`env_file`: in which the worker's address is written."""
        self._api = context.api
        self._records = context.records
        self._progress = context.progress
        self._interruptions = context.interruptions
        self._rentable = rentable
        self._env_file = env_file
        self._give_back = give_back
        self._open: Rental | None = None

    def rent(self, candidates: Sequence[Candidate]) -> tuple[Rental, Welcome]:
        """Rent the first of the candidates that can be had and that works.

        Raises:
            NothingFitsError: none could be had.
            MachineError: those that could be had failed.
            StillBillingError: one failed, and could not be given back.
            OffloadError: something else failed, that would fail with the next candidate too.
        """
        waiting, failures, reasons = deque(candidates), 0, list[str]()
        refusals: list[RunPodError] = []
        while waiting:
            candidate = waiting.popleft()
            try:
                return self._rent_one(candidate)
            except RunPodCapacityError:
                reasons.append(f"{candidate}: taken by others")
                self._progress.note(f"{candidate}: no capacity")
            except (RunPodForbiddenError, RunPodRuleError) as error:
                if error.status not in _OF_ONE_CANDIDATE:
                    raise
                refusals.append(error)
                reasons.append(f"{candidate}: {error}")
                self._progress.note(f"{candidate}: {error}")
            except _PASSING as error:
                failures += 1
                if failures == _MOST_FAILURES:
                    raise
                reasons.append(f"{candidate}: {error}")
                self._progress.note(f"{candidate}: {error}. Given back; another one is tried.")
                waiting.append(candidate)
        if refusals and len(refusals) == len(reasons):
            raise refusals[-1]
        listed = "\n".join(f"  - {reason}" for reason in reasons)
        raise NothingFitsError(
            f"None of the GPUs that fit could be had:\n{listed}\nTry again in a few minutes, or allow more: a "
            "higher --max-price, both clouds, no --region."
        )

    def _rent_one(self, candidate: Candidate) -> tuple[Rental, Welcome]:
        """Make one and wait for it; give it back if anything fails, an interruption included.

        An interruption can come between an error and its clean-up. Then the outer clean-up does it; only the first
        interruption raises.
        """
        try:
            try:
                self._make(candidate)
                return self._hand_over()
            except BaseException:
                self._clean_up()
                raise
        except BaseException:
            self._clean_up()
            raise

    def _make(self, candidate: Candidate) -> None:
        rental = Rental(
            name=new_name(),
            kind=self._rentable.kind,
            machine=str(candidate)[:200],
            dollars_an_hour=candidate.dollars_an_hour,
            token=SecretStr(secrets.token_urlsafe(32)) if self._rentable.kind == "pod" else None,
        )
        self._records.save(rental)  # before it is asked for: whatever is made is found again
        self._open = rental
        self._progress.stage(f"renting {candidate}")
        with self._interruptions.deferred():
            try:
                made = self._rentable.make(rental, candidate)
            except _NOTHING_MADE as error:
                if not error.maybe_submitted:
                    self._records.forget(rental.name)
                    self._open = None
                raise
            self._open = rental = rental.model_copy(update={"id": made})
        self._records.save(rental)

    def _hand_over(self) -> tuple[Rental, Welcome]:
        """Wait until a call works; write where it is for the client to read."""
        if self._open is None:
            raise AssertionError
        try:
            url, welcome = self._rentable.wait(self._open)
        except MachineError as error:
            if self._records.has(self._open.name):
                raise
            raise RentalError(f"{self._open.name} was given back meanwhile, by another command.") from error
        rental = self._open.model_copy(update={"url": url, "env_file": self._env_file})
        values = self._rentable.client_settings(rental)
        others = [each for each in self._records.all() if each.name != rental.name]
        standing = client_settings.standing(self._env_file, values, others)
        rental = rental.model_copy(update={"replaced": standing})
        with self._interruptions.deferred():
            self._open = rental
            self._records.save(rental)
            client_settings.write(self._env_file, values)
        # From here on it is the user's.
        self._open = None
        return rental, welcome

    def _clean_up(self) -> None:
        """Give back what is open.

        Raises:
            StillBillingError: it cannot be given back.
        """
        with self._interruptions.deferred():
            rental = self._open
            if rental is None:
                return
            self._progress.stage(f"giving back {rental.name}")
            try:
                self._give_back(self._api, rental, self._progress)
            except StillBillingError:
                self._open = None  # it has been tried, and the record stays for `down`
                raise
            except OffloadError as error:
                self._open = None
                raise still_billing(rental, error) from error
            client_settings.put_back(rental)
            self._records.forget(rental.name)
            self._open = None
