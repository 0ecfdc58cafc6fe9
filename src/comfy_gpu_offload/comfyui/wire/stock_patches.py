"""The patches that ComfyUI's own nodes put into a network, and their wire form.

They are functions within `transformer_options`; `wire.stock_functions` has the form of one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from ...backends.base import ModelRunError
from .stock_functions import describe_function, rebuild_function

# Left out are those that draw random numbers (ToMe, HyperTile), that hand something back (SAG), or keep it (Flux KV
# cache).
PATCHES: Mapping[str, str] = {
    "FreeU.output_block_patch": "nodes_freelunch",
    "FreeU_V2.output_block_patch": "nodes_freelunch",
    "PatchModelAddDownscale.input_block_patch": "nodes_model_downscale",
    "PatchModelAddDownscale.output_block_patch": "nodes_model_downscale",
    "PerturbedAttentionGuidance.perturbed_attention": "nodes_pag",
    "SkipLayerGuidanceDiT.skip": "nodes_slg",
    "SkipLayerGuidanceDiTSimple.skip": "nodes_slg",
    "NAGuidance.nag_attention_output_patch": "nodes_nag",
}
_MAX_PATCHES = 4096


def is_known(patch: Any) -> bool:
    """Return whether a patch can be sent."""
    return describe_function(patch, PATCHES) is not None


def pack_options(options: Mapping[str, Any]) -> dict[str, Any]:
    """Return `transformer_options` with every patch in its wire form. Call it where all of them are known here."""
    found = dict(options)
    for key, patches in _patches_in(options):
        found[key] = {
            name: _mapped(each, lambda patch: describe_function(patch, PATCHES))
            for name, each in patches.items()
            if each
        }
    return found


def unpack_options(options: Mapping[str, Any]) -> dict[str, Any]:
    """Return `transformer_options` with functions for patches, from the form of `pack_options`.

    Raises:
        ModelRunError: a patch is not of its form, or not known here.
    """
    found, count = dict(options), 0
    for key, patches in _patches_in(options):
        if not isinstance(patches, dict):
            raise ModelRunError(f"The {key} of a call are malformed: use the same release on both sides.")
        count += sum(len(each) for each in patches.values() if isinstance(each, dict | list))
        if count > _MAX_PATCHES:
            raise ModelRunError(f"A call patches the network at over {_MAX_PATCHES} places: use fewer patches.")
        if not all(isinstance(each, list if key == "patches" else dict) for each in patches.values()):
            raise ModelRunError(f"The {key} of a call are malformed: use the same release on both sides.")
        found[key] = {
            name: _mapped(each, lambda data: rebuild_function(data, PATCHES)) for name, each in patches.items()
        }
    return found


def _patches_in(options: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """Give the entries that hold patches: lists of them by name; or, of those that replace, one for each place."""
    return ((key, options[key]) for key in ("patches", "patches_replace") if key in options)


def _mapped(patches: Any, function: Callable[[Any], Any]) -> Any:
    if isinstance(patches, dict):
        return {place: function(patch) for place, patch in patches.items()}
    return [function(patch) for patch in patches]
