"""Remote models that a node began to change: they are unusable, and the next prompt loads another one.

A refusal ends the node's prompt, but does not undo what the node wrote before it. In the next prompt the node may
take that (a mark of its own, for example) as proof that its work is done, or it may catch the error and go on. So
no run of such a model is allowed any more.
"""

from __future__ import annotations

import threading
from weakref import WeakKeyDictionary

from ....client.remote_model import RemoteModel
from ....errors import Obstacle
from .. import loader_epoch

_lock = threading.Lock()
_found: WeakKeyDictionary[RemoteModel, Obstacle] = WeakKeyDictionary()


def mark_unusable(remote: RemoteModel, obstacle: Obstacle) -> Obstacle:
    """Refuse every further run of the models that were loaded with `remote`, and have the loaders run again.

    Args:
        obstacle: the reason, kept if it is the first one.

    Returns:
        `obstacle`.
    """
    with _lock:
        _found.setdefault(remote, obstacle)
    loader_epoch.advance()
    return obstacle


def reason(remote: RemoteModel) -> Obstacle | None:
    """Return the first reason why `remote` is unusable, or None if it is not."""
    return _found.get(remote)
