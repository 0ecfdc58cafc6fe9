"""A call that is under way: what is asked of the worker. `CallMeter` measures it."""

from __future__ import annotations

import secrets
from collections.abc import Callable
from dataclasses import dataclass

import torch

from ..errors import UnsupportedValueError
from ..io.buffers import aligned
from ..io.kept.kept_tensor import KeptTensor
from ..io.strides import moved
from ..io.tree import PackedTree, Tree, map_tensors, unpack
from ..protocol.envelope import Envelope
from ..protocol.messages import FaultCode, Forward, SampleJob
from .call_meter import CallMeter
from .encoding.policy import Encoding
from .kept_results import KeptResult
from .weight_patches import HookPatches, WeightPatches


@dataclass(eq=False)
class Call:
    """A forward call or a whole run. For one thread.

    Attributes:
        message: names the model and the request.
        packed: the arguments' skeleton and tensors.
        host: the same tensors on the CPU.
        device: of the result's tensors.
        encoding: of its tensors, both ways.
        meter: counts its times and bytes.
        patches, hooks: on the model's weights; None for none.
        on_received: told of a large reply's bytes as they come: those that have, and all.
        kept: stands for a result that stays at the worker; None if it does not.
    """

    message: Forward | SampleJob
    packed: PackedTree
    host: tuple[torch.Tensor, ...]
    device: torch.device
    encoding: Encoding
    meter: CallMeter
    patches: WeightPatches | None = None
    hooks: HookPatches | None = None
    on_received: Callable[[int, int], None] = lambda done, of: None
    kept: KeptResult | None = None

    @property
    def next_message(self) -> Forward | SampleJob:
        """The message of the next attempt, with what it says about prediction and of tensors to be made there."""
        said = {"prediction": self.encoding.prediction, "derived": self.encoding.derived or None}
        said = {name: value for name, value in said.items() if value is not None}
        return self.message.model_copy(update=said) if said else self.message

    @property
    def named_patches(self) -> tuple[WeightPatches, ...]:
        """The patches that the worker must know before the call."""
        named = (self.patches, None if self.hooks is None else self.hooks.patches)
        return tuple(patches for patches in named if patches is not None)

    def send_plainly(self, code: FaultCode) -> None:
        """Send the first tensor unpredicted in the next attempt, because of the fault `code`."""
        self.encoding.send_plainly(code)
        if code is FaultCode.WRONG_PREDICTION:
            # The worker still has the reply that could not be read, under the old name.
            self.message = self.message.model_copy(update={"request": secrets.token_hex(16)})

    def value_of(self, reply: Envelope) -> Tree:
        """Return the tree of its reply, with the tensors on `device`."""
        if self.kept is None:
            value = reply.unpack()
        else:
            whole = [
                self.kept.tensor(at, each) if each.tensor is None else each.tensor
                for at, each in enumerate(reply.tensors)
            ]
            value = unpack(reply.skeleton, tuple(whole))
        return map_tensors(value, self._placed)

    def _placed(self, tensor: torch.Tensor) -> torch.Tensor:
        return tensor if isinstance(tensor, KeptTensor) else aligned(moved(tensor, self.device))


def refuse_gradients(packed: PackedTree) -> None:
    """Refuse arguments whose result would be expected to carry a gradient back.

    Raises:
        UnsupportedValueError: a tensor requires a gradient, and gradients are enabled.
    """
    if not torch.is_grad_enabled():
        return
    for path, tensor in zip(packed.paths, packed.tensors, strict=True):
        if tensor.requires_grad:
            raise UnsupportedValueError(
                path, "tensor that requires a gradient", "gradients do not come back; use torch.no_grad()"
            )
