"""A model whose forward pass runs elsewhere, as an `nn.Module` that can stand where the model stood."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext, suppress
from functools import partial
from typing import TYPE_CHECKING, Any, Self

import torch
from torch import nn

from ..errors import RemoteWeightsError
from ..io.tree import Record, Tree, first_tensor
from ..protocol.messages import FORWARD, Keep, ModelDescription
from ..transport.base import Check
from .model_call import ModelCall, ModelRun, OnProgress, OnReceived
from .model_methods import from_plain, methods_in
from .offload_estimate import OffloadEstimate, RunShape, compute_of
from .timings import CallTimings
from .weight_patches import HookPatches, WeightPatches

if TYPE_CHECKING:  # which imports this module
    from .session import Session

logger = logging.getLogger(__name__)

_TIMINGS_KEPT = 4096
# Shapes of convolutions' weights, which memory formats are made for.
_CONVOLUTION_SHAPES = ((1, 2, 2, 2), (1, 2, 2, 2, 2))


class RemoteModel(nn.Module):
    """A worker's model. It has no weights here: no parameters, and an empty `state_dict`.

    Attributes:
        description: the worker's description of it.
        details: further facts from the worker's backend (docs/protocol.md).
        timings: those of the last 4096 calls, oldest first.
        calls: the number of all calls.
    """

    def __init__(
        self, session: Session, description: ModelDescription, details: Any, *, check: Check | None = None
    ) -> None:
        super().__init__()
        self.description = description
        self.details = details
        self.timings: deque[CallTimings] = deque(maxlen=_TIMINGS_KEPT)
        self.calls = 0
        self._session = session
        self._check = check
        # It follows .to(device), as a pipeline expects of its parts.
        self.register_buffer("_anchor", torch.empty(0), persistent=False)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Return the model's result for these arguments, which may be any tree of plain values and tensors.

        Tensors of the result are on the device of the first tensor among the arguments.

        Raises:
            UnsupportedValueError: an argument cannot be sent; names it.
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
        *,
        method: str = FORWARD,
        device: torch.device | None = None,
        on_received: OnReceived = lambda done, of: None,
        has_pictures: bool = False,
        keep_result: Keep | None = None,
    ) -> Any:
        """Return the same as `forward`, with patches and hooks on the model's weights for this call alone.

        Args:
            method: the name of the method to call.
            device: of the result's tensors; None for that of the first tensor among the arguments.
            on_received, has_pictures, keep_result: as in `ModelCall`.

        Raises:
            OffloadError: as `forward`.
        """
        if device is None:
            first = first_tensor(args)
            first = first if first is not None else first_tensor(kwargs)
            device = self.device if first is None else first.device
        described = self.description
        call = ModelCall(
            described.ref,
            described.fingerprint,
            args,
            kwargs,
            device,
            patches,
            hooks,
            method,
            on_received,
            has_pictures,
            keep_result,
        )
        value, timings = self._session.forward(call, self._check)
        self.timings.append(timings)
        object.__setattr__(self, "calls", self.calls + 1)  # nn.Module's own way would look for parameters first
        return value

    def sample(
        self,
        fields: Mapping[str, Any],
        job: Tree,
        on_progress: OnProgress = lambda *_: None,
        *,
        patches: WeightPatches | None = None,
    ) -> tuple[Tree, CallTimings]:
        """Return the result of a whole sampling run at the worker, and its timings: see `Session.sample`.

        Raises:
            OffloadError: as `Session.sample`.
        """
        described = self.description
        run = ModelRun(described.ref, described.fingerprint, fields, job, on_progress, self.device, patches)
        return self._session.sample(run, self._check)

    @property
    def knows_modules(self) -> bool:
        """The same as `Session.knows_modules`."""
        return self._session.knows_modules

    def shares_worker_with(self, other: RemoteModel) -> bool:
        """Return whether the calls of both are sent to the same worker."""
        return self._session is other._session

    def note_cast(self, source: torch.Tensor, made: torch.Tensor) -> None:
        """Do what `Session.note_cast` does."""
        self._session.note_cast(source, made)

    def estimate(self, shape: RunShape) -> OffloadEstimate:
        """Estimate how long a sampling run of that shape will take, by this model's calls so far.

        Raises:
            TransportError: the worker cannot be reached.
        """
        return self._session.estimate(shape, compute_of(self.timings), check=self._check)

    @property
    def stored_share(self) -> float:
        """The same as `Session.stored_share`."""
        return self._session.stored_share

    @property
    def call_shares(self) -> tuple[float, float]:
        """The same as `Session.call_shares`."""
        return self._session.call_shares

    def coding_s(self, raw_up: int, raw_down: int) -> float:
        """Do what `Session.coding_s` does."""
        return self._session.coding_s(raw_up, raw_down)

    def timings_since(self, calls: int) -> list[CallTimings]:
        """Return the timings of the calls after the first `calls`, oldest first, as far as they are kept."""
        new = min(self.calls - calls, len(self.timings))
        return list(self.timings)[len(self.timings) - new :]

    @property
    def last_timings(self) -> CallTimings | None:
        """The timings of the last call, or None before the first."""
        return self.timings[-1] if self.timings else None

    @property
    def device(self) -> torch.device:
        """The device that this module was moved to; the weights are on the worker's."""
        return self.get_buffer("_anchor").device

    def _apply(self, fn: Callable[[torch.Tensor], torch.Tensor], recurse: bool = True) -> Self:
        """Move this module: `.to`, `.half` and the like call this, of a module that holds this one too.

        Raises:
            RemoteWeightsError: the weights, which are at the worker, would be put into another memory format.
        """
        name = self.description.ref.name
        for sizes in _CONVOLUTION_SHAPES:
            with suppress(RuntimeError):  # each of torch's memory formats is for one number of dimensions
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
        """The dtype in which the model computes at the worker."""
        return self.description.dtype

    @property
    def config(self) -> Record:
        """A diffusers model's config, by attribute and by name.

        Raises:
            AttributeError: it is no diffusers model.
        """
        if isinstance(self.details, dict) and isinstance(self.details.get("config"), dict):
            return Record(self.details["config"])
        raise AttributeError(f"the worker gave no diffusers config for {self.description.ref.name}")

    def cache_context(self, name: str) -> AbstractContextManager[None]:
        """Return a context that does nothing. Pipelines announce conditional and unconditional calls by it."""
        return nullcontext()

    def _method(self, name: str, ignored: frozenset[str], *args: Any, **kwargs: Any) -> Any:
        """Call a method of a diffusers model; arguments that it ignores are not sent."""
        sent = {key: value for key, value in kwargs.items() if key not in ignored}
        return from_plain(self.patched(None, args, sent, method=name))

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            methods = methods_in(self.__dict__.get("details"))
            if name in methods:
                return partial(self._method, name, methods[name])
            raise AttributeError(
                f"{type(self).__name__} has no {name!r}: the model's layers and weights are on the worker"
            ) from None
