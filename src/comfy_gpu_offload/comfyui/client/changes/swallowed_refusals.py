"""Refusals to read or change a weight that a node's own code has caught, so that the node went on without.

A node that could not read a weight may or may not have done its work, so every run of the model warns of it. If a
node could not change a weight, its work is missing for certain, and the run is refused.
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

# The most refusals that are kept for one model, by the code that was refused.
_MAX_KEPT = 16


@dataclass(frozen=True)
class _Refusal:
    """A refusal that was raised.

    Attributes:
        error: a copy of the error.
        prompt: the id of the prompt that ran, or None.
        is_change: whether the weight would have been changed.
        is_caught: whether that prompt went on to a run, so that the error must have been caught.
    """

    error: RemoteWeightError
    prompt: str | None
    is_change: bool
    is_caught: bool = False


_lock = threading.Lock()
_refused: weakref.WeakKeyDictionary[RemoteModel, dict[str, _Refusal]] = weakref.WeakKeyDictionary()


def note(remote: RemoteModel, error: RemoteWeightError, *, is_change: bool) -> None:
    """Record a refusal until a run shows whether it was caught.

    The loader runs again with the next prompt. If the refusal has ended this one, the node may have left a mark of
    its own on the model before, by which it would go on the next time without acting.

    Args:
        remote: the weight's model.
        error: the refusal.
        is_change: whether the weight would have been changed.
    """
    loader_epoch.advance()
    kept = RemoteWeightError(error.name, error.key, error.by)  # without the frames that the raised one holds
    with _lock:
        found = _refused.setdefault(remote, {})
        before = found.get(error.by)
        if before is not None or len(found) < _MAX_KEPT:
            changed = is_change or (before is not None and before.is_change)
            found[error.by] = _Refusal(kept, prompt_id(), changed)


def report(remote: RemoteModel) -> None:
    """Report, at the beginning of a run, the refusals that were caught: in the log, and on the running node.

    Raises:
        RemoteWeightError: the refusal of a change was caught. The loader makes another model with the next prompt.
    """
    prompt = prompt_id()
    with _lock:
        # A refusal of another prompt that is not known to be caught has ended that prompt: it is dropped.
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
        text = f"{by} could not read {key}, which is at the worker, and went on without: its effect may be missing."
        logger.warning("%s", text)
        node_lines.show(text)
