"""Refusals that a node's own code catches: it goes on without a weight, and what it does may be missing.

Whether a weight that was not read does harm cannot be told, so it is said with every run of the model. A change
that was not made does: the run is refused.
"""

from __future__ import annotations

import logging
import threading
import weakref
from dataclasses import dataclass, replace

from ....client.remote_model import RemoteModel
from ....errors import RemoteWeightError
from .. import loader_epoch, node_lines
from ..running_node import prompt_id

logger = logging.getLogger(__name__)

# Of one model, by whose code it was.
_MAX_KEPT = 16


@dataclass(frozen=True)
class _Refusal:
    """What was refused in which prompt; caught once that prompt went on to a run."""

    error: RemoteWeightError
    prompt: str | None
    is_change: bool
    is_caught: bool = False


_lock = threading.Lock()
_refused: weakref.WeakKeyDictionary[RemoteModel, dict[str, _Refusal]] = weakref.WeakKeyDictionary()


def note(remote: RemoteModel, error: RemoteWeightError, *, is_change: bool) -> None:
    """Remember a refusal until a run shows whether it ended its prompt.

    If it did, what the node wrote before it (a mark of its own) must not let it pass: the loader runs again.
    """
    loader_epoch.advance()
    kept = RemoteWeightError(error.name, error.key, error.by)  # without the frames that the raised one holds
    with _lock:
        found = _refused.setdefault(remote, {})
        before = found.get(error.by)
        if before is not None or len(found) < _MAX_KEPT:
            changed = is_change or (before is not None and before.is_change)
            found[error.by] = _Refusal(kept, prompt_id(), changed)


def tell(remote: RemoteModel) -> None:
    """Say, where a run of this model begins, what was caught: in the log, and on the node that runs.

    Raises:
        RemoteWeightError: a change was. The loader gives another model with the next prompt.
    """
    prompt = prompt_id()
    with _lock:
        # Of another prompt it ended that one.
        caught = {
            by: replace(refusal, is_caught=True)
            for by, refusal in _refused.get(remote, {}).items()
            if refusal.is_caught or refusal.prompt == prompt
        }
        _refused[remote] = caught
    for by, refusal in caught.items():
        if refusal.is_change:
            loader_epoch.advance()
            raise refusal.error
        key = refusal.error.key
        text = f"{by} was refused {key}, which is at the worker, and went on: what it does may be missing."
        logger.warning("%s", text)
        node_lines.show(text)
