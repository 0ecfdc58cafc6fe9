"""The two requests that a remote model makes of its session: a forward call, and a whole sampling run."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch

from ..io.tree import Tree
from ..protocol.messages import FORWARD, Keep, ModelRef
from .weight_patches import HookPatches, WeightPatches

OnProgress = Callable[[int, int, bytes | None], None]
"""Takes a run's progress: steps done, steps in all, and now and then an encoded picture of the run so far."""

OnReceived = Callable[[int, int], None]
"""Takes the bytes of a large reply that have come, and all of its bytes."""

_CPU = torch.device("cpu")


@dataclass(frozen=True, eq=False)
class ModelCall:
    """One call of a model or another module.

    Attributes:
        ref: the model.
        fingerprint: of the model's file when it was loaded: the worker refuses the call if its file is another.
        args, kwargs: the arguments, which may be any tree of plain values and tensors.
        device: of the result's tensors.
        patches: on the model's weights during this call; None for none.
        hooks: what hooks put on them over `patches`; None for none.
        method: the name of the method; a worker has a list of those that may be called.
        on_received: told of a large reply as it comes in parts.
        has_pictures: whether its tensors are pictures or video, or what a VAE makes them of.
        keep_result: whether the worker is to keep the result, where it can; see `protocol.messages.Forward`.
    """

    ref: ModelRef
    fingerprint: str
    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]
    device: torch.device = _CPU
    patches: WeightPatches | None = None
    hooks: HookPatches | None = None
    method: str = FORWARD
    on_received: OnReceived = lambda done, of: None
    has_pictures: bool = False
    keep_result: Keep | None = None

    @property
    def is_step(self) -> bool:
        """Return whether it may be a step of a run, whose calls are alike: the forward pass of a model."""
        return self.method == FORWARD and not self.ref.has_later_fields


@dataclass(frozen=True, eq=False)
class ModelRun:
    """One whole sampling run, as one job.

    Attributes:
        ref, fingerprint, device, patches: as in `ModelCall`.
        fields: the fields of `SampleJob` that say how to sample.
        job: the job's tree: latent, conditioning, and what else docs/protocol.md lists.
        on_progress: called after each step.
    """

    ref: ModelRef
    fingerprint: str
    fields: Mapping[str, Any]
    job: Tree
    on_progress: OnProgress
    device: torch.device = _CPU
    patches: WeightPatches | None = None
