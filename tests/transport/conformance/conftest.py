"""The fixtures of the suite: a worker for each carrier, and a transport to it for each test."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from tests.support.backend import FunctionBackend
from tests.support.breaking_proxy import BreakingProxy
from tests.transport.conformance.altering_handler import AlteringHandler
from tests.transport.conformance.calls import MODELS, Calls
from tests.transport.conformance.carriers import CARRIERS, Carrier

from comfy_gpu_offload.transport.base import Notify, Transport


class Setup:
    """A carrier whose worker runs, and what the transports of one test are made by.

    Attributes:
        backend: the worker's; its model `wait` computes until it is released.
        port: where requests to it arrive.
    """

    def __init__(self, carrier: Carrier, handler: AlteringHandler, port: int, folder: Path) -> None:
        self.carrier, self.handler, self.port = carrier, handler, port
        self._folder = folder
        self._stack = ExitStack()

    @property
    def backend(self) -> FunctionBackend:
        return self.handler.backend

    def transport(self, port: int | None = None, notify: Notify | None = None) -> Transport:
        """Make a transport: to the worker, or to another port of this machine."""
        port = self.port if port is None else port
        return self._stack.enter_context(self.carrier.transport(self.handler, port, self._folder, notify))

    def proxy(self) -> BreakingProxy:
        """Put a proxy that breaks before the worker; skips the test where there is no connection to break."""
        if self.carrier.reach is None:
            pytest.skip("no connection")
        return self._stack.enter_context(BreakingProxy(self.port))

    def end(self) -> None:
        """Close what the test made, and wait until the worker computes nothing."""
        self.handler.alter = None
        self.backend.release.set()
        self._stack.close()
        self.handler.handle(Calls("end").echo(1).frame.joined())
        self.backend.release.clear()
        self.backend.started.clear()


@pytest.fixture(scope="module", params=[pytest.param(each, id=each.name, marks=each.marks) for each in CARRIERS])
def running(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Carrier, AlteringHandler, int, Path]]:
    carrier: Carrier = request.param
    folder = tmp_path_factory.mktemp("carrier")
    handler = AlteringHandler(FunctionBackend(**MODELS))
    with carrier.serve(handler, folder) as port:
        yield carrier, handler, port, folder


@pytest.fixture
def setup(running: tuple[Carrier, AlteringHandler, int, Path]) -> Iterator[Setup]:
    made = Setup(*running)
    yield made
    made.end()


@pytest.fixture
def transport(setup: Setup) -> Transport:
    return setup.transport()
