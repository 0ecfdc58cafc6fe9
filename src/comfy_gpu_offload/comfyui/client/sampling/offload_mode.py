"""The choice of how a run of Remote Sampler is divided: one call a step, or the whole loop as one job."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

import torch

from ....client.offload_estimate import RunShape, Stored, calls_of
from ....client.remote_model import RemoteModel
from ...installation import release
from ..changes import code_origin
from ..remote_state import record_of
from .sample_job import whole_loop_obstacle

logger = logging.getLogger(__name__)

AUTO, EACH_STEP, WHOLE_LOOP = "auto", "each step", "whole loop"
CHOICES = (AUTO, EACH_STEP, WHOLE_LOOP)


def runs_whole(patcher: Any, offload: str, inputs: Mapping[str, Any]) -> bool:
    """Return whether the whole loop goes to the worker, and log the reason.

    Args:
        patcher: the remote model's patcher.
        offload: one of `CHOICES`. With `whole loop` the answer is always yes; an obstacle is refused when the run
            begins. With `auto` it is no if the worker's ComfyUI is of another release, whose samplers may draw
            other noise for a seed.
        inputs: KSampler's inputs by name.

    Raises:
        OffloadError: the worker cannot be asked.
    """
    difference = release.difference(patcher.worker_release)
    if offload != AUTO:
        if offload == WHOLE_LOOP and difference is not None:
            logger.warning("Offloading the whole loop, although %s.", difference)
        return offload == WHOLE_LOOP
    if difference is not None:
        logger.info("Offloading each step, because %s.", difference)
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
        logger.info("Offloading each step, because the whole loop cannot go to the worker: %s.", obstacle)
        return False
    if draws_noise_on_its_device(inputs["sampler_name"]):
        logger.info(
            "Offloading the whole loop, because %s draws its noise where it runs: it has to be the same place each "
            "time.",
            inputs["sampler_name"],
        )
        return True
    return _is_faster_whole(patcher.remote, inputs)


def _is_faster_whole(remote: RemoteModel, inputs: Mapping[str, Any]) -> bool:
    shape = _run_shape(remote, inputs)
    if shape is None:
        logger.info("Offloading the whole loop, because the latent has several parts.")
        return True
    if shape.is_smaller_as_job:
        logger.info("Offloading the whole loop, because one job sends no more than %d calls.", shape.calls)
        return True
    estimate = remote.estimate(shape)
    logger.info("%s", estimate.summary())
    return bool(estimate.whole_loop)


def _foreign(patcher: Any) -> str | None:
    """Return a message about code of ComfyUI's sampling that packs had replaced before any prompt; None for none.

    In a loop that runs here their code has its effect; at the worker it would not.
    """
    found = [
        f"{change.part} ({code_origin.name_of(change.value)})"
        for change in record_of(patcher.model).as_loaded.foreign
    ]
    return f"a node pack has replaced {', '.join(found)}" if found else None


def draws_noise_on_its_device(sampler: str) -> bool:
    """Return whether a sampler draws noise on the device that samples, whose generator differs from the CPU's.

    With these the picture depends on where the loop runs, so `auto` must not choose by the speed of the link
    (`comfy.k_diffusion.sampling`: those that call `default_noise_sampler` without a seed on the CPU).
    """
    return (
        "ancestral" in sampler
        or sampler.startswith("seeds_")
        or sampler.endswith("_gpu")
        or sampler in {"ddpm", "er_sde", "lcm", "sa_solver", "sa_solver_pece"}
    )


def _run_shape(remote: RemoteModel, inputs: Mapping[str, Any]) -> RunShape | None:
    """Return a run's number of calls and the bytes that they transfer; None if its latent is not one tensor."""
    latent = inputs["latent_image"].get("samples")
    if not isinstance(latent, torch.Tensor) or getattr(latent, "is_nested", False):
        return None
    sides = 1 if inputs["cfg"] == 1 else 2
    call_bytes = latent.numel() * remote.dtype.itemsize * sides
    return RunShape.of(
        calls_of(inputs["sampler_name"], max(1, round(inputs["steps"]))),
        latent.numel(),
        call_bytes,
        Stored(remote.stored_share, *remote.call_shares),
        is_empty=not bool(latent.any()),
        coding_s=remote.coding_s(call_bytes, call_bytes),
    )
