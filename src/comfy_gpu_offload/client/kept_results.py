"""Results that stay at the worker: what the client knows of one, and how it gets the data after all."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from typing import Any

import torch

from ..errors import MessageError
from ..io.digests import digest
from ..io.frame import Received
from ..io.kept.kept_tensor import KeptTensor
from ..io.strides import plain_strides
from ..io.tree import Tree, pack
from ..protocol.messages import Keep

logger = logging.getLogger(__name__)

# A worker that has lost a result computes it again. After so many times there is no room for it.
_MOST_RENEWALS = 2


class KeptResult:
    """The result of one call, whose large tensors the worker keeps. Thread-safe.

    The call is made again when the data is needed, or when the worker has lost it: the worker answers with what it
    keeps, or computes it again. The lock is held while the data is fetched, which is done once.

    Args:
        holder: the session, whose worker has it.
        ask: makes the call again, and returns its result.
        device: of the tensors.

    Attributes:
        is_held: whether calls may name its tensors. They hold data otherwise.
    """

    def __init__(self, holder: object, ask: Callable[[Keep], Tree], device: torch.device) -> None:
        self.holder = holder
        self.is_held = True
        self._ask = ask
        self._device = device
        self._digests: dict[int, bytes] = {}
        self._tensors: tuple[torch.Tensor, ...] | None = None
        self._renewals = 0
        self._lock = threading.Lock()

    def tensor(self, position: int, received: Received) -> torch.Tensor:
        """Return the tensor that stands for one of which the reply has no data.

        Raises:
            MessageError: it has no digest.
        """
        if received.digest is None:
            raise MessageError("a tensor came without its data and without a digest")
        self._digests[position] = received.digest
        strides = received.strides or plain_strides(received.shape)
        like = torch.empty_strided(received.shape, strides, dtype=received.dtype, device="meta")
        return KeptTensor.of_digest(like, self._device, received.digest, self, position)

    def data(self, position: int) -> tuple[torch.Tensor, bool]:
        """See `Source`."""
        with self._lock:
            if self._tensors is None:
                self._tensors = pack(self._ask("data"), "result").tensors
                logger.debug("a kept result is fetched: %d bytes", sum(each.nbytes for each in self._tensors))
            tensors = self._tensors
        if position >= len(tensors):
            raise MessageError("the worker's result has another form than before")
        return tensors[position], digest(tensors[position]) == self._digests[position]

    def renew(self) -> None:
        """Have the worker keep the result again, which it has lost. `is_held` says whether it does."""
        self._renewals += 1
        if self._renewals > _MOST_RENEWALS or not self._is_kept_again():
            logger.debug("a result is sent with its data from now on: the worker does not keep it")
            self.is_held = False

    def _is_kept_again(self) -> bool:
        tensors = pack(self._ask("digests"), "result").tensors
        return all(
            at < len(tensors) and _digest_of(tensors[at], self.holder) == name for at, name in self._digests.items()
        )


def _digest_of(tensor: torch.Tensor, holder: object) -> Any:
    return tensor.derivation(holder) if isinstance(tensor, KeptTensor) else None
