"""Remote models that a node began to change: a refusal ends its prompt, and not what it left behind.

A node may take what it wrote before the refusal (a mark of its own, say) for proof that all is done, or swallow the
error. So nothing loaded with that model runs any more, and the loader makes another one with the next prompt.
"""

from __future__ import annotations

import threading
from weakref import WeakKeyDictionary

from ....client.remote_model import RemoteModel
from ....errors import Obstacle
from .. import loader_epoch

_lock = threading.Lock()
_found: WeakKeyDictionary[RemoteModel, Obstacle] = WeakKeyDictionary()


def spoil(remote: RemoteModel, obstacle: Obstacle) -> Obstacle:
    """Have every run of what the loader made of `remote` refused, for `obstacle` if there is no reason yet."""
    with _lock:
        _found.setdefault(remote, obstacle)
    loader_epoch.advance()
    return obstacle


def reason(remote: RemoteModel) -> Obstacle | None:
    """Return what was refused first; None for nothing."""
    return _found.get(remote)
