"""A fair order of waiting jobs: clients take turns, one job each, and a client's own jobs keep their order."""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Iterator
from time import monotonic
from typing import Generic, Protocol, TypeVar


class Job(Protocol):
    """A waiting job, as the line sees it."""

    @property
    def client(self) -> str:
        """Return the name of the client whose job it is."""

    @property
    def name(self) -> str:
        """Return the name by which the job is cancelled."""

    @property
    def place(self) -> str:
        """Return the name by which the job finds a place that was kept for it."""


JobT = TypeVar("JobT", bound=Job)


class WaitingLine(Generic[JobT]):
    """The jobs that wait, and the places of jobs that left and may come back. Used under its owner's lock."""

    def __init__(self) -> None:
        self._clients: OrderedDict[str, deque[JobT]] = OrderedDict()
        self._left: dict[JobT, float] = {}  # jobs that left, and the time until which their places are kept

    def __len__(self) -> int:
        return sum(1 for _ in self)

    def __iter__(self) -> Iterator[JobT]:
        return (job for jobs in self._clients.values() for job in jobs if job not in self._left)

    def __contains__(self, job: JobT) -> bool:
        return job not in self._left and job in self._clients.get(job.client, ())

    def count(self, client: str) -> int:
        """Return the number of waiting jobs of a client."""
        return sum(job not in self._left for job in self._clients.get(client, ()))

    def has_place(self, client: str, place: str) -> bool:
        """Return whether a place is kept for a job."""
        return any(job.client == client and job.place == place for job in self._left)

    def add(self, job: JobT) -> None:
        """Put a job into the place that is kept for it, or behind the others of its client."""
        jobs = self._clients.setdefault(job.client, deque())
        for position, each in enumerate(jobs):
            if each in self._left and each.place == job.place:
                del self._left[each]
                jobs[position] = job
                return
        jobs.append(job)

    def leave(self, job: JobT, kept_s: float) -> None:
        """Let a waiting job leave, and keep its place for `kept_s` seconds."""
        self._left[job] = monotonic() + kept_s

    def find(self, name: str) -> JobT | None:
        """Return the waiting job of that name, or None."""
        return next((job for job in self if job.name == name), None)

    def discard(self, job: JobT) -> bool:
        """Take the job out; return False if it does not wait."""
        if job not in self:
            return False
        self._take(job)
        return True

    def remove(self, client: str, place: str) -> None:
        """Give up the place that is kept for a job."""
        for job in [job for job in self._left if job.client == client and job.place == place]:
            self._take(job)

    def ahead_of(self, job: JobT) -> int:
        """Return how many waiting jobs run before `job`, if no other joins or leaves."""
        clients = list(self._clients)
        row, own = clients.index(job.client), self._clients[job.client].index(job)
        others = ((index, len(self._clients[client])) for index, client in enumerate(clients) if index != row)
        return own + sum(min(length, own + (index < row)) for index, length in others)

    def next(self) -> JobT | None:
        """Take out and return the job whose turn it is, or None. A kept place is passed over and stays.

        A kept place holds up the other jobs of its client only while another client has a job that can run:
        the device is never idle for the sake of a place.
        """
        self._forget_old_places()
        first = (jobs[0] for jobs in self._clients.values() if jobs[0] not in self._left)
        job = next(first, None) or next(iter(self), None)
        if job is None:
            return None
        self._take(job)
        if job.client in self._clients:
            self._clients.move_to_end(job.client)
        return job

    def take_all(self) -> list[JobT]:
        """Take out and return all jobs, and give up all places."""
        jobs = list(self)
        self._clients.clear()
        self._left.clear()
        return jobs

    def _forget_old_places(self) -> None:
        now = monotonic()
        for job in [job for job, until in self._left.items() if until < now]:
            self._take(job)

    def _take(self, job: JobT) -> None:
        self._left.pop(job, None)
        jobs = self._clients[job.client]
        jobs.remove(job)
        if not jobs:
            del self._clients[job.client]
