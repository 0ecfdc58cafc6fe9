"""Capabilities: what a side can do besides coding tensors, as the two sides name it in the handshake.

docs/protocol.md, "How the protocol grows", says when a new capability is needed.
"""

from __future__ import annotations

from typing import Final, TypedDict

from ..io import codecs
from .messages import KINDS, ClientMessage, Hello, Welcome

PREDICTED: Final = "predicted"
"""The side predicts latents of a run from earlier calls (docs/prediction.md)."""

STRIDES: Final = "strides"
"""The side reads tensors that have strides of their own (docs/frame.md)."""

AUTOCAST: Final = "autocast"
"""The worker computes under the client's `torch.autocast` (docs/protocol.md, "Torch's state")."""

MODULES: Final = "modules"
"""The worker has modules of several kinds, and calls their listed methods (docs/protocol.md, "Modules")."""

PACKED_HEADERS: Final = "packed_headers"
"""The side reads frames whose header is compressed (docs/frame.md)."""

KEPT_RESULTS: Final = "kept_results"
"""The worker keeps results under their digests, and makes tensors of them (docs/protocol.md, "Kept results")."""

_OF_MESSAGES = {kind.capability for kind in KINDS.values() if issubclass(kind, ClientMessage)}
CAPABILITIES: Final = (
    PREDICTED,
    STRIDES,
    AUTOCAST,
    MODULES,
    PACKED_HEADERS,
    KEPT_RESULTS,
    *sorted(name for name in _OF_MESSAGES if name is not None),
)
"""All capabilities of this release, those of single messages included (`ClientMessage.capability`)."""


OF_MODEL_FILES: Final = frozenset({"model_downloads", "model_push"})
"""The capabilities by which clients change a worker's model files. Its operator may switch them off."""


class Announcement(TypedDict):
    """The fields of `hello` and `welcome` that say what a side knows."""

    codecs: tuple[str, ...]
    capabilities: tuple[str, ...] | None


def announcement(capabilities: tuple[str, ...] = CAPABILITIES, *, among_codecs: bool = False) -> Announcement:
    """Return the fields that announce this side's codecs and `capabilities`.

    Args:
        among_codecs: whether the other side is older than the field `capabilities`: it refuses a message that has
            the field, and looks for capabilities among the codecs.
    """
    if among_codecs:
        return {"codecs": (*codecs.names(), *capabilities), "capabilities": None}
    return {"codecs": codecs.names(), "capabilities": capabilities}


def knows(peer: Hello | Welcome, capability: str) -> bool:
    """Return whether the side that introduced itself by `peer` has the capability."""
    return capability in (peer.codecs if peer.capabilities is None else peer.capabilities)


def known_names(peer: Hello | Welcome) -> frozenset[str]:
    """Return the names of all codecs and capabilities of the side that introduced itself by `peer`."""
    return frozenset((*peer.codecs, *(peer.capabilities or ())))


def lacking(peer: Hello | Welcome) -> tuple[str, ...]:
    """Return the capabilities that the side which introduced itself by `peer` does not have, since it is older."""
    return tuple(name for name in CAPABILITIES if name not in OF_MODEL_FILES and not knows(peer, name))
