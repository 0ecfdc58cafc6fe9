"""A sampling run at the worker, driven as KSampler drives its own: progress, previews, the latent."""

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
from ..patches.patch_uploads import as_weight_patches, patch_data, report_skipped
from ..travel_policy import refuse_unsupported
from .sample_job import changes_of_model, job_tree, ratio_keys, whole_loop_obstacle

logger = logging.getLogger(__name__)

# The longest side of a preview. It comes from the worker, and decoding it takes memory by its size.
_MAX_PICTURE_PIXELS = 4096


class Sample(Protocol):
    """A function that has a worker run a job, like `RemoteModel.sample`."""

    def __call__(
        self, fields: Mapping[str, Any], job: Any, on_progress: OnProgress, /, *, patches: WeightPatches | None
    ) -> tuple[Any, CallTimings]:
        """Run a job and return the latent and the run's timings.

        Args:
            fields: a `SampleJob`'s fields.
            job: its tree.
            on_progress: called with the step, the number of steps, and a JPEG picture or None.
            patches: the patches on the model's weights, or None.
        """


def run_whole_loop(
    sample: Sample,
    patcher: Any,
    fields: Mapping[str, Any],
    *,
    positive: Any,
    negative: Any,
    latent: Mapping[str, Any],
) -> dict[str, Any]:
    """Return the LATENT that `nodes.common_ksampler` returns for the same inputs, sampled at the worker.

    Args:
        sample: has the worker run the job.
        patcher: the remote model's patcher.
        fields: a `SampleJob`'s fields: sampler, scheduler, seed, steps, cfg and others of KSampler's inputs.
        positive: the positive conditioning, as ComfyUI passes it.
        negative: the negative conditioning.
        latent: ComfyUI's LATENT.

    Raises:
        UnsupportedPatchError: the model has patches that cannot be sent to the worker in any mode.
        UnsupportedRunError: a part of the run can only be done here.
        MessageError: the worker's reply is no latent of the right shape.
        OffloadError: as `RemoteModel.sample`.
    """
    refuse_unsupported(patcher)
    names = {"sampler_name": fields["sampler"], "scheduler": fields["scheduler"]}
    obstacle = whole_loop_obstacle(patcher, positive, negative, latent, **names)
    if obstacle is not None:
        if any(changes_of_model(patcher)):
            # The changes stay on the model, which ComfyUI keeps. A loader that runs again makes one without them.
            loader_epoch.advance()
        raise UnsupportedRunError(obstacle)
    swallowed_refusals.report(patcher.remote)
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
    data = patch_data(patcher.patches, patcher)
    report_skipped(data, patcher)
    return as_weight_patches(data)


def _progress(steps: int) -> OnProgress:
    """Return a function that shows a run's progress as `latent_preview.prepare_callback` does.

    A worker may report a step twice after a lost connection: the bar never moves back, and a step without a picture
    is shown once.
    """
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
    except Exception as error:  # an image library may raise anything, and no run should fail for a preview
        logger.warning(
            "The worker's preview cannot be decoded (%s): the run goes on without it.", type(error).__name__
        )
        return None
    return image


def _checked(result: Any, sent: Any, model: Any) -> Any:
    """Return the worker's latent if it has the shape of the one that was sent, or the model's output shape for it.

    Raises:
        MessageError: it has another shape, or is no latent.
    """
    # The output shape takes the model's own code, which may fail: it is computed only if the shapes differ.
    if _shapes(result) != _shapes(sent) and _shapes(result) != _shape_out(sent, model):
        raise MessageError("the worker's reply to a sampling run is no latent of the size that was sent")
    return result


def _shape_out(sent: Any, model: Any) -> Any:
    """Return the shape that the model's latent format gives a latent after sampling; None if it is not one tensor.

    It differs for HunyuanImage 2.1's refiner, which packs frames in pairs.
    """
    if not isinstance(sent, torch.Tensor):
        return None
    return _shapes(model.process_latent_out(torch.zeros_like(sent)))


def _shapes(value: Any) -> Any:
    """Return a tree with the shapes of its tensors in their place."""
    if isinstance(value, torch.Tensor):
        return tuple(value.shape)
    if isinstance(value, dict):
        return {key: _shapes(item) for key, item in value.items()}
    return [_shapes(item) for item in value] if isinstance(value, list) else value


def _placed(samples: Any) -> Any:
    """Return a latent on the device and in the dtype in which ComfyUI keeps latents between nodes."""
    management = comfy.model_management
    # Older releases keep float32, the dtype of the reply.
    dtype = management.intermediate_dtype() if hasattr(management, "intermediate_dtype") else None
    where = {"device": management.intermediate_device()} | ({} if dtype is None else {"dtype": dtype})
    return from_plain(samples).to(**where)
