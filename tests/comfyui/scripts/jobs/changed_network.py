"""Workflows whose node changes a remote network by itself: prompts in a row with it, then one without the node.

    PYTHON changed_network.py COMFYUI_ROOT MODELS_FOLDER DiT|UNet

Prints JSON, for test_changed_network.py to judge.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

# First: it makes ComfyUI importable.
import sides
import torch
from network_changes import LOCAL, REFUSED, Change, changing
from sessions import SESSION, sampled, sampled_whole
from sides import UNET, WAN, Case, Kind, Patch, case

from comfy_gpu_offload.comfyui.client import loader_epoch
from comfy_gpu_offload.comfyui.client.changes import loaded_code
from comfy_gpu_offload.comfyui.client.patcher import remote_patcher
from comfy_gpu_offload.comfyui.installation import diffusion_model_files
from comfy_gpu_offload.errors import OffloadError

_KINDS = {"DiT": WAN, "UNet": replace(UNET, latent=(1, 4, 8, 6))}
_PROMPTS = {"each step": 3, "whole loop": 2}  # with the node, in a row


@dataclass(frozen=True)
class Way:
    """A loader and a sampler."""

    load: Callable[[Kind], Any]
    sample: Callable[[Any, Case], torch.Tensor]


def _stock(kind: Kind) -> Any:
    return diffusion_model_files.load_patcher(
        diffusion_model_files.DIFFUSION_MODELS.find_file(kind.file), "default"
    )


def _remote(kind: Kind) -> Any:
    return remote_patcher(SESSION.model(kind.file, "default"))


_HERE = Way(_stock, sampled)
_WAYS = {"each step": Way(_remote, sampled), "whole loop": Way(_remote, sampled_whole)}


class Workflow:
    """A loader whose output ComfyUI keeps until its `IS_CHANGED` says otherwise, a node, and a sampler."""

    def __init__(self, kind: Kind, way: Way) -> None:
        self._kind, self._way = kind, way
        self._loaded: tuple[int, Any] = (-1, None)

    def run(self, patch: Patch = lambda model: model) -> torch.Tensor | str:
        """Return the latent, or the error in its place."""
        try:
            with torch.inference_mode():
                return self._way.sample(patch(self._model().clone()), case(self._kind, steps=1))
        except OffloadError as error:
            return f"{type(error).__name__}: {error}"
        except Exception as error:
            return f"by torch or Python: {type(error).__name__}: {error}"

    def _model(self) -> Any:
        if self._loaded[0] != loader_epoch.current():
            self._loaded = (loader_epoch.current(), self._way.load(self._kind))
        return self._loaded[1]


def _prompts(kind: Kind, way: Way, change: Change, count: int, plain: bool = True) -> list[torch.Tensor | str]:
    """Run prompts with the node in one workflow, and, with `plain`, one without it."""
    workflow = Workflow(kind, way)
    with changing(change) as patch:
        outcomes = [workflow.run(patch) for _ in range(count)]
    return [*outcomes, workflow.run()] if plain else outcomes


def _alike(one: Any, other: Any) -> bool:
    return isinstance(one, torch.Tensor) and isinstance(other, torch.Tensor) and torch.equal(one, other)


def compared(kind: Kind, change: Change, plain: Any, here: list[Any]) -> dict[str, Any]:
    """Compare the results of prompts with the node, each way, with those of a local model."""
    found: dict[str, Any] = {"mattered": not _alike(here[0], plain)}
    for name, way in _WAYS.items():
        outcomes = _prompts(kind, way, change, _PROMPTS[name])
        found[name] = {
            "said": [each if isinstance(each, str) else "" for each in outcomes],
            "as here": [_alike(one, other) for one, other in zip(outcomes, here, strict=False)],
            "plain after it": _alike(outcomes[-1], plain),
        }
    return found


def main(kind: Kind) -> dict[str, Any]:
    """Print the comparison for all changes to a network of that kind."""
    sides.SIDES.stock(kind)
    loaded_code.remember()
    plain = Workflow(kind, _HERE).run()
    found: dict[str, Any] = {}
    # What is refused need be run here once, to see that it matters.
    for group, changes, prompts in (("refused", REFUSED, 1), ("local", LOCAL, _PROMPTS["each step"])):
        found[group] = {}
        for name, (change, said) in changes.items():
            here = _prompts(kind, _HERE, change, prompts, plain=changes is LOCAL)
            found[group][name] = {**compared(kind, change, plain, here), "to say": said}
    return found


if __name__ == "__main__":
    print(json.dumps(main(_KINDS[sys.argv[3]])), flush=True)
    # As in run.py.
    os._exit(0)
