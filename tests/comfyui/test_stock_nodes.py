"""Every stock node that makes a MODEL of a MODEL gives the local result or is refused: none errs in silence."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import pytest
import torch

from .harness.api import PromptRejectedError
from .harness.proxy import Proxy
from .harness.site import ComfyUI
from .harness.workflow import MMDIT, UNET, WAN, Link, Model, Sampling, Scene

pytestmark = [pytest.mark.comfyui, pytest.mark.each_release]

_DEFAULTS = {"INT": 1, "FLOAT": 1.0, "BOOLEAN": False, "STRING": ""}
# Compiling takes ten seconds and more; test_refusals has it.
_LEFT_OUT = {"TorchCompileModel", "RemoteSampler"}
_REFUSALS = ("UnsupportedPatchError", "UnsupportedRunError")
_TINY_UNET = replace(UNET, latent=(1, 4, 4, 4))


@dataclass(frozen=True)
class Patch:
    """A node whose only link is one MODEL, with every other input at its default."""

    node: str
    model_input: str
    values: dict[str, Any]

    def add(self, scene: Scene, model: Link) -> Link:
        return scene.workflow.add(self.node, **{self.model_input: model}, **self.values)


def patches(comfyui: ComfyUI) -> Iterator[Patch]:
    """Return the patches of all nodes that this ComfyUI has."""
    for node, definition in comfyui.api.get("/object_info").items():
        inputs = definition["input"].get("required", {})
        models = [name for name, given in inputs.items() if given[0] == "MODEL"]
        values = {name: _default(given) for name, given in inputs.items() if given[0] != "MODEL"}
        if definition["output"][:1] == ["MODEL"] and len(models) == 1 and None not in values.values():
            yield Patch(node, models[0], values)


def _default(given: list[Any]) -> Any:
    """Return an input's default; None for a link to another node."""
    kind, options = given[0], given[1] if len(given) > 1 else {}
    choices = kind if isinstance(kind, list) else options.get("options", [])
    if "default" in options:
        return options["default"]
    return choices[0] if choices else _DEFAULTS.get(str(kind))


def problem_with(
    comfyui: ComfyUI, proxy: Proxy, listed: str, model: Model, patch: Patch, sampler: str
) -> str | None:
    """Return what is wrong with that node on a remote model; Remote Sampler's is the whole loop."""
    scene, local = Scene.of(model), Scene.of(model)
    sampling = Sampling(steps=2)
    for stage in (scene, local):
        stock = patch.add(stage, stage.workflow.local(model))
        stage.sample("KSampler", stock, sampling, "local")
    remote = patch.add(scene, scene.workflow.remote(listed))
    scene.sample(sampler, remote, sampling, "remote", offload="whole loop")
    proxy.forget()
    try:
        outcome = comfyui.api.run(scene.workflow.graph)
    except PromptRejectedError:
        return None  # a default that this machine has no file for
    if outcome.succeeded:
        same = torch.equal(comfyui.saved("local"), comfyui.saved("remote"))
        return None if same else "another result than locally"
    if outcome.error is not None and outcome.error["exception_type"].endswith(_REFUSALS):
        return "refused after a call" if proxy.exchanges("forward") + proxy.exchanges("sample") else None
    fails_locally = not comfyui.api.run(local.workflow.graph).succeeded
    return None if fails_locally else outcome.summary


@pytest.mark.parametrize(
    ("model", "sampler"),
    [(MMDIT, "KSampler"), (_TINY_UNET, "KSampler"), (WAN, "KSampler"), (MMDIT, "RemoteSampler")],
    ids=str,
)
def test_no_stock_node_is_wrong_in_silence(
    comfyui: ComfyUI, listed: Callable[[Model], str], proxy: Proxy, model: Model, sampler: str
) -> None:
    name = listed(model)
    tried = [patch for patch in patches(comfyui) if patch.node not in _LEFT_OUT]
    assert len(tried) > 30
    found = {patch.node: problem_with(comfyui, proxy, name, model, patch, sampler) for patch in tried}
    problems = {node: problem for node, problem in found.items() if problem is not None}
    assert not problems, "\n".join(f"{node}: {problem}" for node, problem in problems.items())
