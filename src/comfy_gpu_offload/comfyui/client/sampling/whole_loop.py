"""Drives a sampling run that is at the worker, as KSampler drives its own: progress, previews, the latent."""

from __future__ import annotations

import io
import logging
from collections.abc import Mapping
from typing import Any, Protocol

import comfy.model_management
import comfy.utils
import latent_preview
import torch
from comfy.cli_args import args as comfy_args
from PIL import Image

from ....client.model_call import OnProgress
from ....client.timings import CallTimings
from ....client.weight_patches import WeightPatches
from ....errors import MessageError, ModelChangedError, UnsupportedRunError
from ...wire.plain_values import from_plain
from .. import loader_epoch
from ..changes import swallowed_refusals
from ..changes.foreign_code import warn_of_foreign
from ..patches.patch_uploads import data_of, tell_of_data, travelling
from ..travel_policy import refuse_unless_it_travels
from .sample_job import changes_of_model, job_tree, ratio_keys, whole_loop_obstacle

logger = logging.getLogger(__name__)

# A picture comes from elsewhere, and is made in this process before its size is known otherwise.
_MAX_PICTURE_PIXELS = 4096


class Sample(Protocol):
    """Has a worker run a job: `RemoteModel.sample`."""

    def __call__(
        self, fields: Mapping[str, Any], job: Any, on_progress: OnProgress, /, *, patches: WeightPatches | None
    ) -> tuple[Any, CallTimings]:
        """`fields` are a `SampleJob`'s; `job` is its tree; `patches` are on the model's weights."""


def run_whole_loop(
    sample: Sample,
    patcher: Any,
    fields: Mapping[str, Any],
    *,
    positive: Any,
    negative: Any,
    latent: Mapping[str, Any],
) -> dict[str, Any]:
    """What `nodes.common_ksampler` gives for the same inputs, sampled at the worker.

    Args:
        fields: a `SampleJob`'s: sampler, scheduler, seed, steps and cfg, and what else it has of KSampler's.

    Raises:
        UnsupportedPatchError: the model carries what no way of offloading takes to the worker.
        UnsupportedRunError: the run has something that can be done here only.
        MessageError: the worker gave no latent.
        OffloadError: as `RemoteModel.sample`.
    """
    refuse_unless_it_travels(patcher)
    names = {"sampler_name": fields["sampler"], "scheduler": fields["scheduler"]}
    obstacle = whole_loop_obstacle(patcher, positive, negative, latent, **names)
    if obstacle is not None:
        if any(changes_of_model(patcher)):
            # They stay, and ComfyUI keeps the loader's output: a loader that runs again gets a model without them.
            loader_epoch.advance()
        raise UnsupportedRunError(obstacle)
    swallowed_refusals.tell(patcher.remote)
    warn_of_foreign(patcher.model, whole_loop=True)
    tree = job_tree(patcher, positive, negative, latent)
    fields = {"preview": comfy_args.preview_method.value, **fields}
    try:
        result, _ = sample(fields, tree, _progress(fields["steps"]), patches=_weight_patches(patcher))
    except ModelChangedError:
        loader_epoch.advance()
        raise
    dropped = ratio_keys()
    out = {key: value for key, value in latent.items() if key not in dropped}
    out["samples"] = _placed(_checked(result, tree["latent"], patcher.model))
    return out


def _weight_patches(patcher: Any) -> WeightPatches | None:
    if not patcher.patches:
        return None
    data = data_of(patcher.patches, patcher)
    tell_of_data(data, patcher)
    return travelling(data)


def _progress(steps: int) -> OnProgress:
    """Shows a run as `latent_preview.prepare_callback` does; told of a step twice, shows it once."""
    bar = comfy.utils.ProgressBar(steps)
    shown = 0

    def show(step: int, of: int, picture: bytes | None) -> None:
        nonlocal shown
        if step <= shown and picture is None:
            return
        shown = max(shown, step)
        image = None if picture is None else _image(picture)
        preview = None if image is None else ("JPEG", image, latent_preview.MAX_PREVIEW_RESOLUTION)
        bar.update_absolute(shown, of, preview)

    return show


def _image(picture: bytes) -> Image.Image | None:
    try:
        image = Image.open(io.BytesIO(picture), formats=("JPEG",))
        if max(image.size) > _MAX_PICTURE_PIXELS:
            return None
        image.load()
    except Exception as error:  # of what an image library raises; a preview is worth no run
        logger.warning("The worker's preview is no picture: %s", type(error).__name__)
        return None
    return image


def _checked(result: Any, sent: Any, model: Any) -> Any:
    """The worker's latent, of the shape that it was sent with, or that the model's latent format makes of that."""
    # What makes the other shape is the model's own code, and is asked only where it is needed: the run is done.
    if _shapes(result) != _shapes(sent) and _shapes(result) != _shape_out(sent, model):
        raise MessageError("the worker's reply to a sampling run is no latent of the size that was sent")
    return result


def _shape_out(sent: Any, model: Any) -> Any:
    """What a picture of that shape comes out as; HunyuanImage 2.1's refiner packs frames in pairs."""
    if not isinstance(sent, torch.Tensor):
        return None
    return _shapes(model.process_latent_out(torch.zeros_like(sent)))


def _shapes(value: Any) -> Any:
    if isinstance(value, torch.Tensor):
        return tuple(value.shape)
    if isinstance(value, dict):
        return {key: _shapes(item) for key, item in value.items()}
    return [_shapes(item) for item in value] if isinstance(value, list) else value


def _placed(samples: Any) -> Any:
    """Where and in what ComfyUI keeps latents between nodes."""
    management = comfy.model_management
    # Older releases know no other dtype than float32.
    dtype = management.intermediate_dtype() if hasattr(management, "intermediate_dtype") else None
    where = {"device": management.intermediate_device()} | ({} if dtype is None else {"dtype": dtype})
    return from_plain(samples).to(**where)
