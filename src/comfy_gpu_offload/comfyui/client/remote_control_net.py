"""A CONTROL_NET whose network is at the worker, for ComfyUI's own Apply nodes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

import comfy.controlnet
import comfy.model_management
import comfy.utils
import torch

from ...client.remote_model import RemoteModel
from ...errors import MessageError, RemoteControlNetError
from ...io.buffers import on_host
from ..wire.control_data import PREFIX, PREPROCESSING, pack_hint
from .control_payload import RemoteControl, chain_of
from .stand_in import RemoteDiffusionModel

# Which `upscale_algorithm` of ComfyUI's control nets there are.
_ALGORITHMS = frozenset({"nearest-exact", "bilinear"})


@dataclass(frozen=True)
class ControlNetFacts:
    """What the worker says of a control net, as `comfy.controlnet.ControlBase` has it.

    Attributes:
        reads_latent: False where it looks at the latent's size alone.
        compute_dtype: None for the model's own.
        needs_vae: whether its picture is encoded before it gets it.
        preprocessing: a name of `PREPROCESSING`.
        extra_conds: names of conditioning that it takes besides the context.
    """

    reads_latent: bool
    compute_dtype: torch.dtype | None
    compression_ratio: int
    upscale_algorithm: str
    needs_vae: bool
    preprocessing: str
    concat_mask: bool
    extra_conds: list[str]

    @classmethod
    def of(cls, details: Any) -> ControlNetFacts:
        """Checks what came from a worker.

        Raises:
            MessageError: it is not of this form.
        """
        given = details.get("control_net") if isinstance(details, dict) else None
        if not isinstance(given, dict) or set(given) != {each.name for each in fields(cls)}:
            raise MessageError("the worker's description of the ControlNet is not of the form known here")
        for name, check in _CHECKS.items():
            if not check(given[name]):
                raise MessageError(f"the worker's description of the ControlNet has no proper {name}")
        return cls(**given)


_CHECKS: Mapping[str, Any] = {
    "reads_latent": lambda value: isinstance(value, bool),
    "compute_dtype": lambda value: isinstance(value, torch.dtype | None),
    "compression_ratio": lambda value: type(value) is int and 1 <= value <= 256,
    "upscale_algorithm": lambda value: isinstance(value, str) and value in _ALGORITHMS,
    "needs_vae": lambda value: isinstance(value, bool),
    "preprocessing": lambda value: isinstance(value, str) and value in PREPROCESSING,
    "concat_mask": lambda value: isinstance(value, bool),
    "extra_conds": lambda value: isinstance(value, list) and all(isinstance(name, str) for name in value),
}


class RemoteControlNet(comfy.controlnet.ControlBase):  # type: ignore[misc]  # ComfyUI is untyped
    """Has the worker compute residuals in the same call as the model, where they stay.

    Args:
        remote: the worker's description of it, from `Session.model`.
    """

    def __init__(self, remote: RemoteModel) -> None:
        super().__init__()
        self.remote = remote
        self.facts = ControlNetFacts.of(remote.details)
        self.compression_ratio = self.facts.compression_ratio
        self.upscale_algorithm = self.facts.upscale_algorithm
        self.concat_mask = self.facts.concat_mask
        self.extra_conds = list(self.facts.extra_conds)
        # ControlBase keeps a VAE where this is not None, and warns where none was given.
        self.latent_format = self.facts if self.facts.needs_vae else None
        self._model_sampling: Any = None
        self._image: torch.Tensor | None = None
        self._encoded: dict[tuple[int, int], torch.Tensor] = {}

    def copy(self) -> RemoteControlNet:
        """Another one of the same network, as Apply nodes make for each use."""
        made = RemoteControlNet(self.remote)
        self.copy_to(made)
        return made

    def deepclone_multigpu(self, load_device: Any, autoregister: bool = False) -> RemoteControlNet:
        """A copy: there are no weights here for another device."""
        made = self.copy()
        if autoregister:
            self.multigpu_clones[load_device] = made
        return made

    def pre_run(self, model: Any, percent_to_timestep_function: Any) -> None:
        """Called before each run, by the model that is sampled.

        Raises:
            RemoteControlNetError: that model is here.
        """
        if not isinstance(model.diffusion_model, RemoteDiffusionModel):
            raise RemoteControlNetError(
                "Remote ControlNet Loader's ControlNet runs at the worker, within the calls of a model from Remote "
                "Model Loader, and this model runs here. Load the model with Remote Model Loader, or the "
                "ControlNet with Load ControlNet Model."
            )
        super().pre_run(model, percent_to_timestep_function)
        self._model_sampling = model.model_sampling

    def cleanup(self) -> None:
        """Called after each run."""
        self._model_sampling = None
        self._encoded.clear()
        super().cleanup()

    def get_control(self, x_noisy: Any, t: Any, cond: Any, batched_number: int, transformer_options: Any) -> Any:
        """What stands for its residuals in the call, or what those before it gave where it is not its time.

        Args:
            x_noisy: latent `[B, C, …]`, before the model's scaling.
            t: sigma `[B]`.
            cond: conditioning by ComfyUI's names, batched.
            batched_number: how many conditions are side by side in the batch.
        """
        previous = None
        if self.previous_controlnet is not None:
            previous = self.previous_controlnet.get_control(x_noisy, t, cond, batched_number, transformer_options)
        times = self.timestep_range
        if times is not None and (t[0] > times[0] or t[0] < times[1]):
            return previous
        sampling = self._model_sampling
        return RemoteControl(
            applied=self.applied(x_noisy.shape[-1], x_noisy.shape[-2]),
            dtype=self.facts.compute_dtype,
            x=sampling.calculate_input(t, x_noisy) if self.facts.reads_latent else None,
            timestep=sampling.timestep(t),
            context=cond.get("crossattn_controlnet", cond.get("c_crossattn")) if self.facts.reads_latent else None,
            conds={name: cond[name] for name in self.extra_conds if cond.get(name) is not None},
            chunks=batched_number,
            previous=previous,
        )

    def applied(self, width: int, height: int) -> dict[str, Any]:
        """The fields of its `AppliedNet`, for a latent of that size.

        Raises:
            RemoteControlNetError: it was not applied, or it needs a VAE and has none, or an argument cannot travel.
        """
        further = sorted(set(self.extra_args) - {"control_type"})
        if further:
            raise RemoteControlNetError(
                f"The ControlNet's argument {further[0]!r:.80} does not travel to the worker."
            )
        if self.cond_hint_original is None:
            raise RemoteControlNetError("The ControlNet has no picture: connect it to Apply ControlNet.")
        hint = self._encode(width, height) if self.facts.needs_vae else self._pack()
        return {
            "net": self.remote.description.ref.name.removeprefix(PREFIX),
            "fingerprint": self.remote.description.fingerprint,
            "strength": float(self.strength),
            "control_type": self.extra_args.get("control_type"),
            "hint": hint,
            "encoded": self.facts.needs_vae,
            "masks": [on_host(mask) for mask in self.extra_concat_orig],
        }

    def _pack(self) -> torch.Tensor:
        if self._image is None:
            self._image = pack_hint(self.cond_hint_original)
        return self._image

    def _encode(self, width: int, height: int) -> torch.Tensor:
        """As `comfy.controlnet.ControlNet.get_control` does; the worker goes on from the VAE's latent."""
        if self.vae is None:
            raise RemoteControlNetError("This ControlNet needs a VAE: connect one to Apply ControlNet.")
        if (width, height) not in self._encoded:
            ratio = self.compression_ratio * self.vae.spacial_compression_encode()
            image = comfy.utils.common_upscale(
                self.cond_hint_original, width * ratio, height * ratio, self.upscale_algorithm, "center"
            )
            image = PREPROCESSING[self.facts.preprocessing](image)
            loaded = comfy.model_management.loaded_models(only_currently_used=True)
            self._encoded[width, height] = pack_hint(self.vae.encode(image.movedim(1, -1)))
            comfy.model_management.load_models_gpu(loaded)
        return self._encoded[width, height]


def whole_loop_obstacle(control: Any, options: Mapping[str, Any]) -> str | None:
    """Why a condition's control net keeps its run from travelling as a whole; None if it does not.

    Args:
        options: the condition's.
    """
    for net in chain_of(control):
        if not isinstance(net, RemoteControlNet):
            return "a ControlNet that runs here (Apply ControlNet; Remote ControlNet Loader's would travel)"
        if net.extra_hooks is not None:
            return "hooks on a ControlNet"
        if net.facts.needs_vae and "area" in options:
            return "an area together with a ControlNet that takes a VAE's latent (Apply ControlNet with a VAE)"
    return None


class ControlTable:
    """A run's control nets, each once: a run's ``control_nets``.

    Args:
        latent: the run's, in whose size pictures are encoded.
    """

    def __init__(self, latent: Any) -> None:
        self.entries: list[dict[str, Any]] = []
        self._latent = latent
        self._places: dict[int, int] = {}

    def place(self, control: RemoteControlNet) -> int:
        """Where in the table it is; its own chain comes before it.

        Raises:
            RemoteControlNetError: as `RemoteControlNet.applied`.
        """
        if id(control) not in self._places:
            previous = control.previous_controlnet
            place = None if previous is None else self.place(previous)
            start, end = map(float, control.timestep_percent_range)
            applied = control.applied(self._latent.shape[-1], self._latent.shape[-2])
            self.entries.append({**applied, "start": start, "end": end, "previous": place})
            self._places[id(control)] = len(self.entries) - 1
        return self._places[id(control)]
