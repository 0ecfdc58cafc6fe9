"""The parts of a session that every one of its calls uses."""

from __future__ import annotations

from dataclasses import dataclass

from .encoding.digest_cache import DigestCache
from .exchanges import Exchanges
from .handshake import Handshake
from .options import SessionOptions
from .weight_patches import PatchUploads


@dataclass(frozen=True, eq=False)
class SessionParts:
    """The parts of one client's session. Each is thread-safe.

    Attributes:
        exchanges: sends frames, and looks at each reply first.
        options: how the session behaves.
        handshake: what the worker said of itself.
        digests: the tensors that the worker holds.
        uploads: the patches that the worker holds.
    """

    exchanges: Exchanges
    options: SessionOptions
    handshake: Handshake
    digests: DigestCache
    uploads: PatchUploads
