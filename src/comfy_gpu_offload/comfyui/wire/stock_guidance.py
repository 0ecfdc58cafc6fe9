"""The functions of ComfyUI's own nodes that run in the sampling loop (guidance, soft masks), and their wire form.

A model's options hold them beside `transformer_options`; `wire.stock_functions` has the form of one.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ...backends.base import ModelRunError
from .stock_functions import describe_function, rebuild_function
from .stock_patches import PATCHES

# Left out are those that keep something from step to step (APG) or read a model or conditioning (PerpNeg).
_FUNCTIONS: Mapping[str, str] = {
    "RescaleCFG.rescale_cfg": "nodes_model_advanced",
    "CFGZeroStar.cfg_zero_star": "nodes_cfg",
    "CFGNorm.cfg_norm": "nodes_cfg",
    "CFGNorm.cfg_norm_pre": "nodes_cfg",
    "EpsilonScaling.epsilon_scaling_function": "nodes_eps",
    "TemporalScoreRescaling.temporal_score_rescaling": "nodes_eps",
    "FreSca.custom_cfg_function": "nodes_fresca",
    "Mahiro.mahiro_normd": "nodes_mahiro",
    "TCFG.tangential_damping_cfg": "nodes_tcfg",
    "VideoLinearCFGGuidance.linear_cfg": "nodes_video_model",
    "VideoTriangleCFGGuidance.linear_cfg": "nodes_video_model",
    "PerturbedAttentionGuidance.post_cfg_function": "nodes_pag",
    "SkipLayerGuidanceDiT.post_cfg_function": "nodes_slg",
    "SkipLayerGuidanceDiTSimple.calc_cond_batch_function": "nodes_slg",
    "LTXVSpatioTemporalGuidance.post_cfg_function": "nodes_lt",
    "LTXVModalityGuidance.post_cfg_function": "nodes_lt",
    "DifferentialDiffusion.<lambda>": "nodes_differential_diffusion",
    **PATCHES,
}
ONE = frozenset({"sampler_cfg_function", "sampler_calc_cond_batch_function", "denoise_mask_function"})
SEVERAL = frozenset({"sampler_pre_cfg_function", "sampler_post_cfg_function"})
"""Where ComfyUI keeps one function, and several."""
_MOST = 64


def describe_guidance(key: str, value: Any) -> Any:
    """Return the wire form of an entry of a model's options; None where not all of it is functions known here."""
    if key in ONE:
        return describe_function(value, _FUNCTIONS)
    if key not in SEVERAL or not isinstance(value, list):
        return None
    found = [describe_function(each, _FUNCTIONS) for each in value]
    return None if None in found else found


def rebuild_guidance(options: Mapping[str, Any], sampling: Any) -> dict[str, Any]:
    """Return a model's options with functions in place of their descriptions.

    Args:
        options: what lies beside `transformer_options`.
        sampling: the `model_sampling` of the model that they are for.

    Raises:
        ModelRunError: one is not of its form, or not known here.
    """
    found = dict(options)
    for key, value in options.items():
        if key in ONE:
            found[key] = rebuild_function(value, _FUNCTIONS, sampling)
        elif key in SEVERAL:
            if not isinstance(value, list) or len(value) > _MOST:
                raise ModelRunError(f"The {key} of the run is malformed: use the same release on both sides.")
            found[key] = [rebuild_function(each, _FUNCTIONS, sampling) for each in value]
    return found
