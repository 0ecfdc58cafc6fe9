"""How a run of Remote Sampler is divided: a call a step, or the whole loop as one job."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

import torch

from ....client.offload_estimate import RunShape, calls_of
from ....client.remote_model import RemoteModel
from ...installation import release
from ..changes import code_origin
from ..remote_state import record_of
from .sample_job import whole_loop_obstacle

logger = logging.getLogger(__name__)

AUTO, EACH_STEP, WHOLE_LOOP = "auto", "each step", "whole loop"
CHOICES = (AUTO, EACH_STEP, WHOLE_LOOP)
# A message and its frame, without tensors.
_MESSAGE_BYTES = 1024


def runs_whole(patcher: Any, offload: str, inputs: Mapping[str, Any]) -> bool:
    """Whether the whole loop goes to the worker; `inputs` are KSampler's. Says in the log why, and what it expects.

    With `whole loop` always: what is in the way of it is refused when the run begins. With `auto` not where the
    worker's ComfyUI is another release: its samplers may draw other noise for a seed.

    Raises:
        OffloadError: the worker cannot be asked.
    """
    difference = release.difference(patcher.worker_release)
    if offload != AUTO:
        if offload == WHOLE_LOOP and difference is not None:
            logger.warning("whole loop, though %s", difference)
        return offload == WHOLE_LOOP
    if difference is not None:
        logger.info("each step, since %s", difference)
        return False
    obstacle = whole_loop_obstacle(
        patcher,
        inputs["positive"],
        inputs["negative"],
        inputs["latent_image"],
        sampler_name=inputs["sampler_name"],
        scheduler=inputs["scheduler"],
    )
    obstacle = obstacle or _foreign(patcher)
    if obstacle is not None:
        logger.info("each step, since the whole loop cannot travel: %s", obstacle)
        return False
    if draws_noise_on_its_device(inputs["sampler_name"]):
        logger.info(
            "whole loop: %s draws noise where it runs, and is to draw the same each time", inputs["sampler_name"]
        )
        return True
    shape = _shape(patcher.remote, inputs)
    if shape is None:
        logger.info("whole loop: a latent of several parts")
        return True
    estimate = patcher.remote.estimate(shape)
    logger.info("%s", estimate.summary())
    return bool(estimate.whole_loop)


def _foreign(patcher: Any) -> str | None:
    """Return what packs have replaced of ComfyUI's sampling: in a loop that runs here it does what it does."""
    found = [
        f"{change.part} ({code_origin.name_of(change.value)})"
        for change in record_of(patcher.model).as_loaded.foreign
    ]
    return f"a node pack has replaced {', '.join(found)}" if found else None


def draws_noise_on_its_device(sampler: str) -> bool:
    """Whether the sampler draws noise on the device that samples, whose generator differs from a CPU's.

    For these a picture depends on where the loop runs, so `auto` must not choose by the link of the moment
    (`comfy.k_diffusion.sampling`: `default_noise_sampler` without a seed on the CPU).
    """
    return (
        "ancestral" in sampler
        or sampler.startswith("seeds_")
        or sampler.endswith("_gpu")
        or sampler in {"ddpm", "er_sde", "lcm", "sa_solver", "sa_solver_pece"}
    )


def _shape(remote: RemoteModel, inputs: Mapping[str, Any]) -> RunShape | None:
    """The run in bytes; None where its latent is not one tensor."""
    latent = inputs["latent_image"].get("samples")
    if not isinstance(latent, torch.Tensor) or getattr(latent, "is_nested", False):
        return None
    sides = 1 if inputs["cfg"] == 1 else 2
    call_bytes = latent.numel() * remote.dtype.itemsize * sides
    share_up, share_down = remote.call_shares
    latent_bytes = int(latent.numel() * 4 * remote.stored_share)
    steps = max(1, round(inputs["steps"]))
    return RunShape(
        calls=calls_of(inputs["sampler_name"], steps),
        call_up=int(call_bytes * share_up) + _MESSAGE_BYTES,
        call_down=int(call_bytes * share_down) + _MESSAGE_BYTES,
        # An empty latent is all zeros, which pack to nothing.
        job_up=(latent_bytes if bool(latent.any()) else 0) + _MESSAGE_BYTES,
        job_down=latent_bytes + _MESSAGE_BYTES,
    )
