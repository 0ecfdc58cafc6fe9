"""A model whose forward pass runs elsewhere, as an `nn.Module` that can stand where the model stood."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext, suppress
from typing import Any, Protocol, Self

import torch
from torch import nn

from ..errors import RemoteWeightsError
from ..io.tree import Record, Tree, first_tensor
from ..protocol.messages import ModelDescription, ModelRef
from ..transport.base import Check
from .offload_estimate import OffloadEstimate, RunShape, compute_of
from .timings import CallTimings
from .weight_patches import HookPatches, WeightPatches

logger = logging.getLogger(__name__)

_TIMINGS_KEPT = 4096
# Of convolutions' weights: what memory formats are for.
_OF_A_WEIGHT = ((1, 2, 2, 2), (1, 2, 2, 2, 2))
# Told of a run's progress: steps done, steps in all, and now and then an encoded picture of the run so far.
OnProgress = Callable[[int, int, bytes | None], None]


class Caller(Protocol):
    """What runs the calls: a `Session`."""

    def forward(
        self,
        ref: ModelRef,
        fingerprint: str,
        args: tuple[Any, ...],
        kwargs: Mapping[str, Any],
        *,
        check: Check | None = None,
        device: torch.device | None = None,
        patches: WeightPatches | None = None,
        hooks: HookPatches | None = None,
    ) -> tuple[Tree, CallTimings]:
        """See `Session.forward`."""

    def sample(
        self,
        ref: ModelRef,
        fingerprint: str,
        fields: Mapping[str, Any],
        job: Tree,
        on_progress: OnProgress,
        *,
        check: Check | None = None,
        device: torch.device | None = None,
        patches: WeightPatches | None = None,
    ) -> tuple[Tree, CallTimings]:
        """See `Session.sample`."""

    def estimate(self, shape: RunShape, compute_s: float | None, *, check: Check | None = None) -> OffloadEstimate:
        """See `Session.estimate`."""

    @property
    def stored_share(self) -> float:
        """See `Session.stored_share`."""

    @property
    def call_shares(self) -> tuple[float, float]:
        """See `Session.call_shares`."""


class RemoteModel(nn.Module):
    """A worker's model. It has no weights here: no parameters, and an empty `state_dict`.

    Attributes:
        description: the worker's description of it.
        details: what the worker's backend says of it besides (docs/protocol.md).
        timings: of the last 4096 calls, oldest first.
        calls: how many there were in all.
    """

    def __init__(
        self, caller: Caller, description: ModelDescription, details: Any, *, check: Check | None = None
    ) -> None:
        super().__init__()
        self.description = description
        self.details = details
        self.timings: deque[CallTimings] = deque(maxlen=_TIMINGS_KEPT)
        self.calls = 0
        self._caller = caller
        self._check = check
        # Follows .to(device), as a pipeline expects of its parts.
        self.register_buffer("_anchor", torch.empty(0), persistent=False)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """The model's result for these arguments, which may be any tree of plain values and tensors.

        Tensors of the result are on the device of the first tensor among the arguments.

        Raises:
            UnsupportedValueError: an argument cannot travel; names it.
            TransportError: the worker cannot be reached.
            WorkerFaultError: the worker refused, or the model failed.
        """
        return self.patched(None, args, kwargs)

    def patched(
        self,
        patches: WeightPatches | None,
        args: tuple[Any, ...],
        kwargs: Mapping[str, Any],
        hooks: HookPatches | None = None,
    ) -> Any:
        """`forward` with these patches on the model's weights, and those of hooks over them, for this call alone.

        Raises:
            As `forward`.
        """
        first = first_tensor(args)
        first = first if first is not None else first_tensor(kwargs)
        device = self.device if first is None else first.device
        value, timings = self._caller.forward(
            self.description.ref,
            self.description.fingerprint,
            args,
            kwargs,
            check=self._check,
            device=device,
            patches=patches,
            hooks=hooks,
        )
        self.timings.append(timings)
        object.__setattr__(self, "calls", self.calls + 1)  # a module's own way looks for parameters first
        return value

    def sample(
        self,
        fields: Mapping[str, Any],
        job: Tree,
        on_progress: OnProgress = lambda *_: None,
        *,
        patches: WeightPatches | None = None,
    ) -> tuple[Tree, CallTimings]:
        """A whole sampling run at the worker: see `Session.sample`.

        Raises:
            As `Session.sample`.
        """
        return self._caller.sample(
            self.description.ref,
            self.description.fingerprint,
            fields,
            job,
            on_progress,
            check=self._check,
            device=self.device,
            patches=patches,
        )

    def shares_worker_with(self, other: RemoteModel) -> bool:
        """Whether calls of both go to the same worker."""
        return self._caller is other._caller

    def estimate(self, shape: RunShape) -> OffloadEstimate:
        """Estimate how long a sampling run of that shape will take, by this model's calls so far.

        Raises:
            TransportError: the worker cannot be reached.
        """
        return self._caller.estimate(shape, compute_of(self.timings), check=self._check)

    @property
    def stored_share(self) -> float:
        """See `Session.stored_share`."""
        return self._caller.stored_share

    @property
    def call_shares(self) -> tuple[float, float]:
        """See `Session.call_shares`."""
        return self._caller.call_shares

    def timings_since(self, calls: int) -> list[CallTimings]:
        """Of the calls after the first `calls`, oldest first, as far as they are kept."""
        new = min(self.calls - calls, len(self.timings))
        return list(self.timings)[len(self.timings) - new :]

    @property
    def last_timings(self) -> CallTimings | None:
        """Of the last call, or None before the first."""
        return self.timings[-1] if self.timings else None

    @property
    def device(self) -> torch.device:
        """Where this module was moved to; the weights are on the worker's device."""
        return self.get_buffer("_anchor").device

    def _apply(self, fn: Callable[[torch.Tensor], torch.Tensor], recurse: bool = True) -> Self:
        """Move this module: what `.to`, `.half` and their kin do, of a module that holds this one too.

        Raises:
            RemoteWeightsError: they would put the weights, which are at the worker, into another memory format.
        """
        name = self.description.ref.name
        for sizes in _OF_A_WEIGHT:
            with suppress(RuntimeError):  # torch has each memory format for one rank alone
                if not fn(torch.empty(sizes, dtype=self.dtype, device="cpu")).is_contiguous():
                    raise RemoteWeightsError(name, "to put them into another memory format")
        dtype = fn(torch.empty(0, dtype=self.dtype, device="cpu")).dtype
        if dtype is not self.dtype:
            logger.warning(
                "%r is converted to %s here, and computes in %s at the worker as before: load it with "
                "weight_dtype=%r there.",
                *(name, dtype, self.dtype, str(dtype).removeprefix("torch.")),
            )
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        return self

    @property
    def dtype(self) -> torch.dtype:
        """The dtype the model computes in, at the worker."""
        return self.description.dtype

    @property
    def config(self) -> Record:
        """A diffusers model's config, by attribute and by name.

        Raises:
            AttributeError: the model is none of diffusers'.
        """
        if isinstance(self.details, dict) and isinstance(self.details.get("config"), dict):
            return Record(self.details["config"])
        raise AttributeError(f"the worker gave no diffusers config for {self.description.ref.name}")

    def cache_context(self, name: str) -> AbstractContextManager[None]:
        """Does nothing. Pipelines announce their conditional and unconditional calls with it."""
        return nullcontext()

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            raise AttributeError(
                f"{type(self).__name__} has no {name!r}: the model's layers and weights are on the worker"
            ) from None
