"""ControlNets and T2I adapters: run within the calls of a diffusion model, see `worker.control_chains`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Self

import torch

from ....backends.base import ModelRunError
from ...installation.control_net_files import CONTROL_NETS, load_control_net
from ...wire.control_data import PREFIX, PREPROCESSING, AppliedNet
from .runnable_module import ModuleFiles, RunnableModule


@dataclass(frozen=True)
class PreparedNet:
    """A copy of a ControlNet that is set up for a picture.

    Attributes:
        key: the model, the sizes and whatever else the copy is for.
        applied: how an Apply node set it up.
        net: ComfyUI's copy.
    """

    key: tuple[Any, ...]
    applied: AppliedNet
    net: Any

    def fits(self, key: tuple[Any, ...], applied: AppliedNet) -> bool:
        """Return whether this copy serves for that key, with the picture and masks of `applied`."""
        ours, theirs = [self.applied.hint, *self.applied.masks], [applied.hint, *applied.masks]
        return self.key == key and len(ours) == len(theirs) and all(map(_equal, ours, theirs))


class ControlNet(RunnableModule):
    """A ControlNet in memory.

    No method is listed: a diffusion model's call names the nets that come before it, so that their residuals stay
    at the worker.

    Attributes:
        net: ComfyUI's.
        prepared: copies of it for the last pictures and sizes, the one used last at the end.
    """

    prefix = PREFIX
    files = CONTROL_NETS

    def __init__(self, net: Any) -> None:
        self.net = net
        self.prepared: list[PreparedNet] = []

    @classmethod
    def load(cls, found: ModuleFiles) -> Self:
        """See `RunnableModule`."""
        found.refuse_weight_dtype("ControlNets")
        return cls(load_control_net(found.files[0]))

    def patchers(self) -> list[Any]:
        """See `RunnableModule`. One that is made of a model's own weights (Control-LoRA) has none."""
        return list(self.net.get_models())

    def callee(self, patcher: Any) -> Any:
        """Return the net."""
        return self.net

    def network(self) -> torch.nn.Module | None:
        """See `RunnableModule`; None for one that is made of a model's own weights (Control-LoRA)."""
        for name in ("control_model", "t2i_model"):
            module = getattr(self.net, name, None)
            if isinstance(module, torch.nn.Module):
                return module
        return None

    def compute_dtype(self) -> torch.dtype:
        """Return the dtype that it computes in, float32 where that is the model's own."""
        return self._own_dtype() or torch.float32

    def describe(self, name: str) -> dict[str, Any]:
        """Return what a client must know to apply it: `comfyui.client.remote_control_net`, `ControlNetFacts`.

        Raises:
            ModelRunError: it prepares pictures in a way that is not known here.
        """
        return {
            "control_net": {
                "reads_latent": not hasattr(self.net, "t2i_model"),
                "compute_dtype": self._own_dtype(),
                "compression_ratio": self.net.compression_ratio,
                "upscale_algorithm": self.net.upscale_algorithm,
                "needs_vae": self.net.latent_format is not None,
                "preprocessing": self._preprocessing(name),
                "concat_mask": bool(self.net.concat_mask),
                "extra_conds": list(self.net.extra_conds),
            }
        }

    def release(self) -> None:
        """See `RunnableModule`."""
        for each in self.prepared:
            each.net.cleanup()
        self.prepared.clear()
        super().release()

    def _own_dtype(self) -> torch.dtype | None:
        """Return the dtype that it computes in; None for the model's own."""
        if not hasattr(self.net, "control_model"):
            return torch.float32 if hasattr(self.net, "t2i_model") else None
        dtype: torch.dtype = getattr(self.net, "manual_cast_dtype", None) or self.net.control_model.dtype
        return dtype

    def _preprocessing(self, name: str) -> str:
        """Return which of `PREPROCESSING` it does, by what it makes of some numbers."""
        probe = torch.tensor([0.0, 0.25, 1.0])
        made = self.net.preprocess_image(probe.clone())
        for known, function in PREPROCESSING.items():
            if torch.equal(made, function(probe)):
                return known
        raise ModelRunError(
            f"The ControlNet {name!r} prepares its picture in a way that is not known here: load it on the client "
            "with ComfyUI's Load ControlNet Model."
        )


def _equal(ours: torch.Tensor, theirs: torch.Tensor) -> bool:
    same_form = (ours.dtype, ours.shape, ours.stride()) == (theirs.dtype, theirs.shape, theirs.stride())
    return same_form and torch.equal(ours, theirs)
