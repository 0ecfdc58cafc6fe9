"""A CONTROL_NET whose network is at the worker, for ComfyUI's own Apply ControlNet nodes."""

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
from ..wire.control_data import PREFIX, PREPROCESSING
from ..wire.picture_values import pack_picture
from .control_payload import RemoteControl, chain_of
from .stand_in import RemoteDiffusionModel

# The values of `upscale_algorithm` in ComfyUI's ControlNets.
_ALGORITHMS = frozenset({"nearest-exact", "bilinear"})


@dataclass(frozen=True)
class ControlNetFacts:
    """A worker's description of a ControlNet, checked.

    Attributes:
        reads_latent: whether it reads the latent, not only its size.
        compute_dtype: the dtype that it computes in, or None for the model's own.
        compression_ratio: pixels of its picture to one of the latent.
        upscale_algorithm: how its picture is resized, by ComfyUI's name.
        needs_vae: whether its picture is encoded by a VAE first.
        preprocessing: the name of a function of `PREPROCESSING`, which its picture goes through.
        concat_mask: whether it takes a mask along with the picture.
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
        """Return a worker's description of a ControlNet, checked.

        Raises:
            MessageError: the details are not of this form.
        """
        given = details.get("control_net") if isinstance(details, dict) else None
        if not isinstance(given, dict) or set(given) != {each.name for each in fields(cls)}:
            raise MessageError("the worker's description of the ControlNet is not of the expected form")
        for name, check in _CHECKS.items():
            if not check(given[name]):
                raise MessageError(f"the worker's description of the ControlNet has no valid {name}")
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
    """A ControlNet that the worker computes in the model's own calls, so that its outputs stay there.

    Args:
        remote: the worker's ControlNet, from `Session.model`.
    """

    def __init__(self, remote: RemoteModel) -> None:
        super().__init__()
        self.remote = remote
        self.facts = ControlNetFacts.of(remote.details)
        self.compression_ratio = self.facts.compression_ratio
        self.upscale_algorithm = self.facts.upscale_algorithm
        self.concat_mask = self.facts.concat_mask
        self.extra_conds = list(self.facts.extra_conds)
        # If this is not None, ControlBase keeps the VAE that it is given, and warns if it is given none.
        self.latent_format = self.facts if self.facts.needs_vae else None
        self._model_sampling: Any = None
        self._image: torch.Tensor | None = None
        self._encoded: dict[tuple[int, int], torch.Tensor] = {}

    def copy(self) -> RemoteControlNet:
        """Return another one of the same network, as Apply nodes make for each use."""
        made = RemoteControlNet(self.remote)
        self.copy_to(made)
        return made

    def deepclone_multigpu(self, load_device: Any, autoregister: bool = False) -> RemoteControlNet:
        """Return a copy, since there are no weights here to move to another device."""
        made = self.copy()
        if autoregister:
            self.multigpu_clones[load_device] = made
        return made

    def pre_run(self, model: Any, percent_to_timestep_function: Any) -> None:
        """Prepare for a run. ComfyUI calls this once before each.

        Args:
            model: the ComfyUI model that is sampled.
            percent_to_timestep_function: the model's mapping from a share of the run to a sigma.

        Raises:
            RemoteControlNetError: the model is local.
        """
        if not isinstance(model.diffusion_model, RemoteDiffusionModel):
            raise RemoteControlNetError(
                "A ControlNet from Remote ControlNet Loader cannot be used with a model on this machine, because "
                "it runs within the calls of a remote model. Load the model with Remote Model Loader, or the "
                "ControlNet with Load ControlNet Model."
            )
        super().pre_run(model, percent_to_timestep_function)
        self._model_sampling = model.model_sampling

    def cleanup(self) -> None:
        """End a run. ComfyUI calls this once after each."""
        self._model_sampling = None
        self._encoded.clear()
        super().cleanup()

    def get_control(self, x_noisy: Any, t: Any, cond: Any, batched_number: int, transformer_options: Any) -> Any:
        """Return a `RemoteControl`, or the previous ControlNets' result outside of its part of the run.

        Args:
            x_noisy: latent [B, C, …], before the model's scaling.
            t: sigma [B].
            cond: conditioning by ComfyUI's names, batched.
            batched_number: the number of conditions that are joined in the batch.
            transformer_options: passed on to the previous ControlNets.

        Raises:
            RemoteControlNetError: as `applied`.
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
        """Return the fields of its `AppliedNet`, for a latent of that size.

        Raises:
            RemoteControlNetError: it has no picture, it lacks the VAE that it needs, or an argument of it cannot be
                sent.
        """
        further = sorted(set(self.extra_args) - {"control_type"})
        if further:
            raise RemoteControlNetError(
                f"The ControlNet's argument {further[0]!r:.80} cannot be sent to the worker. Bypass the node that "
                "sets it, or load the ControlNet with Load ControlNet Model."
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
            self._image = pack_picture(self.cond_hint_original)
        return self._image

    def _encode(self, width: int, height: int) -> torch.Tensor:
        """Return the picture as the VAE's latent, as `comfy.controlnet.ControlNet.get_control` makes it."""
        if self.vae is None:
            raise RemoteControlNetError("This ControlNet needs a VAE: connect one to Apply ControlNet.")
        if (width, height) not in self._encoded:
            ratio = self.compression_ratio * self.vae.spacial_compression_encode()
            image = comfy.utils.common_upscale(
                self.cond_hint_original, width * ratio, height * ratio, self.upscale_algorithm, "center"
            )
            image = PREPROCESSING[self.facts.preprocessing](image)
            loaded = comfy.model_management.loaded_models(only_currently_used=True)
            self._encoded[width, height] = pack_picture(self.vae.encode(image.movedim(1, -1)))
            comfy.model_management.load_models_gpu(loaded)
        return self._encoded[width, height]


def whole_loop_obstacle(control: Any, options: Mapping[str, Any]) -> str | None:
    """Return why a condition's ControlNets keep a whole run from going to the worker; None if they do not.

    Args:
        control: the last of the condition's ControlNets, or None.
        options: the condition's entries.
    """
    for net in chain_of(control):
        if not isinstance(net, RemoteControlNet):
            return "a ControlNet that runs here (Apply ControlNet; one from Remote ControlNet Loader works)"
        if net.extra_hooks is not None:
            return "hooks on a ControlNet"
        if net.facts.needs_vae and "area" in options:
            return "an area together with a ControlNet that takes a VAE's latent (Apply ControlNet with a VAE)"
    return None


class ControlTable:
    """A run's table of ControlNets, with one entry for each: the job's ``control_nets``.

    Args:
        latent: the run's latent, [B, C, …, H, W]; a VAE's pictures are encoded in its size.
    """

    def __init__(self, latent: Any) -> None:
        self.entries: list[dict[str, Any]] = []
        self._latent = latent
        self._places: dict[int, int] = {}

    def place(self, control: RemoteControlNet) -> int:
        """Return a ControlNet's index in the table, to which it is added after those applied before it.

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
