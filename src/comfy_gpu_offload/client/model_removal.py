"""The removal of a model file at the worker."""

from __future__ import annotations

import logging

from ..errors import OffloadError, TransportError, WorkerFaultError
from ..protocol.envelope import seal
from ..protocol.messages import FaultCode, made
from ..protocol.messages.model_removal import Removed, RemoveModel
from ..transport.base import Check
from .exchanges import Exchanges, new_request
from .handshake import Handshake
from .options import SessionOptions
from .retry import Retries, after_any
from .worker_faults import expect_answer

logger = logging.getLogger(__name__)


class ModelRemoval:
    """One removal, which may be asked for again when its reply was lost. For one thread."""

    def __init__(self, exchanges: Exchanges, options: SessionOptions, handshake: Handshake) -> None:
        self._exchanges = exchanges
        self._options = options
        self._handshake = handshake
        self._was_lost = False

    def run(self, folder: str, name: str, check: Check | None) -> None:
        """Have the worker remove the file; calls that run or came before still have it.

        Raises:
            MessageError: the folder or the name is longer than any.
            TransportError: the worker could not be reached for as long as the retry policy says.
            WorkerFaultError: it refused.
        """
        fields = {"client": self._handshake.client, "folder": folder, "name": name}
        try:
            Retries(self._options.retry, after_any, check, _tell).run(lambda: self._attempt(fields, check))
        except WorkerFaultError as error:
            if error.code == FaultCode.REFUSED_FILE.value and self._was_lost and self._is_gone(folder, name, check):
                return
            raise

    def _attempt(self, fields: dict[str, str], check: Check | None) -> None:
        message = made(RemoveModel, {"request": new_request(), **fields})
        try:
            envelope, _ = self._exchanges.ask("hello", message.request, seal(message), self._options.call, check)
        except TransportError:
            self._was_lost = True
            raise
        expect_answer(envelope.message, Removed, self._exchanges.peer)

    def _is_gone(self, folder: str, name: str, check: Check | None) -> bool:
        """Return whether an attempt whose reply was lost has removed the file."""
        models = self._handshake.renew(check).models
        return not any(entry.folder == folder and entry.name in {name, f"{folder}/{name}"} for entry in models)


def _tell(error: OffloadError) -> None:
    logger.info("The model is not removed yet, and the worker is asked again: %s", error)
