"""What stands for a weight of a remote model where ComfyUI hands a model's weights on: in a merge."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from ..client.remote_model import RemoteModel
from ..errors import RemoteMergeError


class RemoteWeight(torch.Tensor):
    """A weight that is at a worker: shape and dtype, and no data.

    Whatever asks for the data raises: a model that is here cannot be merged with one that is not.

    Attributes:
        remote: the model that it is of.
        key: its name there, as in the model's `state_dict`.
    """

    remote: RemoteModel
    key: str

    @classmethod
    def of(cls, remote: RemoteModel, key: str, weight: torch.Tensor) -> RemoteWeight:
        """Stands for a weight of that shape and dtype; `weight` is on the meta device."""
        made: RemoteWeight = torch.Tensor._make_subclass(cls, weight)
        made.remote, made.key = remote, key
        return made

    @classmethod
    def __torch_function__(
        cls, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """What works without data works; the rest is refused.

        Raises:
            RemoteMergeError: the operation reads the data.
        """
        with torch._C.DisableTorchFunctionSubclass():
            try:
                return func(*args, **(kwargs or {}))
            except NotImplementedError as error:  # what torch raises where a meta tensor has no data
                names = sorted({each.remote.description.ref.name for each in args if isinstance(each, cls)})
                raise RemoteMergeError(*names[:1]) from error


def as_it_is(weight: torch.Tensor, **_: Any) -> torch.Tensor:
    """Stands where the network's own conversion of a weight would: the worker has that."""
    return weight
