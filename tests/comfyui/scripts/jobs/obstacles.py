"""Runs that cannot go to a worker as a whole, and the reasons given."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import comfy.samplers
import torch
from comfy_extras import nodes_apg as apg
from comfy_extras import nodes_model_advanced as advanced
from sides import MMDIT, SIDES, case, condition, node

from comfy_gpu_offload.comfyui.client.sampling.sample_job import whole_loop_obstacle


class OwnSampling(torch.nn.Module):
    """A sampling of a node's own class."""


def obstacles() -> dict[str, str | None]:
    """Return the reasons why runs cannot travel as a whole."""

    def patched(change: Callable[[Any], Any]) -> dict[str, Any]:
        model = SIDES.remote(MMDIT).clone()
        return {"model": change(model) or model}

    def conditioned(**further: Any) -> dict[str, Any]:
        return {"positive": [condition(MMDIT, 1, **further)]}

    def own_sampling(model: Any) -> None:
        found = node(advanced.ModelSamplingSD3, shift=2.0)(model).object_patches["model_sampling"]

        class Own(type(found)):  # type: ignore[misc]
            def timestep(self, sigma: Any) -> Any:
                return sigma

        found.__class__ = Own
        model.add_object_patch("model_sampling", found)

    def changed_sampling(model: Any) -> None:
        found = node(advanced.ModelSamplingSD3, shift=2.0)(model).object_patches["model_sampling"]
        found.percent_to_sigma = lambda percent: percent
        model.add_object_patch("model_sampling", found)

    changes: dict[str, dict[str, Any]] = {
        "nothing": {},
        "sd3": patched(node(advanced.ModelSamplingSD3, shift=2.0)),
        "lcm": patched(node(advanced.ModelSamplingDiscrete, sampling="lcm", zsnr=False)),
        "option data": patched(lambda model: model.model_options.update(disable_cfg1_optimization=True)),
        "rope": patched(
            lambda model: model.model_options["transformer_options"].update(rope_options={"scale_x": 2.0})
        ),
        "APG": patched(lambda model: apg.APG.execute(model, 1.0, 5.0, 0.5).result[0]),
        "post cfg": patched(lambda model: model.set_model_sampler_post_cfg_function(obstacles)),
        "function wrapper": patched(lambda model: model.set_model_unet_function_wrapper(obstacles)),
        "mask function": patched(lambda model: model.set_model_denoise_mask_function(obstacles)),
        "wrapper": patched(lambda model: model.add_wrapper_with_key("outer_sample", "easycache", obstacles)),
        "callback": patched(lambda model: model.add_callback_with_key("on_pre_run", "somebody's", obstacles)),
        "context windows": patched(lambda model: model.model_options.update(context_handler=object())),
        "block patch": patched(lambda model: model.set_model_output_block_patch(obstacles)),
        "weights": patched(lambda model: model.patches.update(a=[1])),
        "latent format": patched(lambda model: model.add_object_patch("latent_format", object())),
        "own sampling class": patched(own_sampling),
        "own sampling method": patched(changed_sampling),
        "own sampling": patched(lambda model: model.add_object_patch("model_sampling", OwnSampling())),
        "control": conditioned(control=object()),
        "hooks": conditioned(hooks=object()),
        "gligen": conditioned(gligen=("position", object(), [])),
        "unknown object": conditioned(surprise=object()),
        "sampler": {"sampler_name": "somebody's"},
        "scheduler": {"scheduler": "somebody's"},
        "latent": {"latent": {"samples": torch.zeros(1, 16, 8, 8, device="meta")}},
    }
    found = {}
    this = case(MMDIT)
    for name, change in changes.items():
        given = {
            "model": SIDES.remote(MMDIT),
            "positive": this.positive,
            "negative": this.negative,
            "latent": this.latent,
            "sampler_name": "euler",
            "scheduler": "normal",
            **change,
        }
        model, names = given.pop("model"), {key: given.pop(key) for key in ("sampler_name", "scheduler")}
        found[name] = whole_loop_obstacle(model, given["positive"], given["negative"], given["latent"], **names)
    return found


def unknown_stock_names() -> list[str]:
    """Return ComfyUI's own samplers and schedulers that are not recognised as its own."""
    this = case(MMDIT)
    found: list[str] = []
    for sampler in comfy.samplers.KSampler.SAMPLERS:
        for scheduler in comfy.samplers.KSampler.SCHEDULERS:
            names = {"sampler_name": sampler, "scheduler": scheduler}
            obstacle = whole_loop_obstacle(SIDES.remote(MMDIT), this.positive, this.negative, this.latent, **names)
            found += [obstacle] if obstacle else []
    return found
