"""Answers `remove_model`: removes a file that a client brought, once nothing uses it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ...io.frame import EncodedFrame
from ...protocol.envelope import seal
from ...protocol.messages.model_removal import Removed, RemoveModel
from ..model_store.permission import refuse_unless_allowed
from ..model_store.removal import removable_file, remove
from ..replies import Finish, answered
from .table import Asked, answers

if TYPE_CHECKING:
    from ..worker_parts import WorkerParts


@answers(RemoveModel)
def begin_removal(worker: WorkerParts, message: RemoveModel, asked: Asked) -> Finish:
    """Queue the removal: calls that run or came before still have the model.

    Raises:
        RefusedError: the worker's operator lets clients change no files.
        ModelStoreError: there is no such file, or no client brought it.
    """
    refuse_unless_allowed(worker.takes_models)
    place = removable_file(worker.backend.model_folders(), message.folder, message.name)
    turn = worker.executor.enter(message.client, message.request, f"removing {place.name}", asked.caller)

    def removal(_: float) -> EncodedFrame:
        worker.backend.unload(place.path)
        remove(place)
        return seal(Removed(request=message.request, instance=worker.instance))

    return lambda: answered(turn, removal)
