"""Node packs' nodes that take a model and give one, applied with its defaults to a local and to a remote model."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any

import torch

from .harness.api import Outcome, PromptRejectedError
from .harness.site import Site
from .harness.workflow import Model, Sampling, Scene

FOLDER = Path(os.environ.get("COMFYUI_PACKS", Path.home() / "comfy" / "packs")).expanduser()
_DEFAULTS = {"INT": 0, "FLOAT": 0.0, "BOOLEAN": False, "STRING": ""}
_REFUSALS = {"UnsupportedPatchError", "UnsupportedValueError", "RemoteWeightError"}
_SEEDS = count(5000)


@dataclass(frozen=True)
class PackNode:
    """A node of a pack.

    Attributes:
        output: the number of its output that is the model.
        model: the name of its input that takes the model.
        inputs: the values of its other inputs, by name.
    """

    name: str
    pack: str
    output: int
    model: str
    inputs: Mapping[str, Any]


@dataclass(frozen=True)
class Tried:
    """The outcome of one node: "equal", "no effect", "refused", "fails locally too", or else a fault of ours."""

    node: PackNode
    outcome: str
    message: str = ""

    @property
    def is_right(self) -> bool:
        return self.outcome in {"equal", "no effect", "refused", "fails locally too"}

    def __str__(self) -> str:
        return f"{self.node.pack}: {self.node.name}: {self.outcome} {self.message}".rstrip()


def packs_found() -> list[Path]:
    """Return the folders of the packs found here."""
    return [folder for folder in sorted(FOLDER.glob("*")) if (folder / "__init__.py").is_file()]


def patching_nodes(infos: Mapping[str, Any]) -> Iterator[PackNode]:
    """Yield the packs' nodes whose required inputs are one model and values with defaults."""
    for name, info in sorted(infos.items()):
        module = str(info.get("python_module"))
        pack = module.removeprefix("custom_nodes.")
        if (
            pack == module
            or pack.startswith(("comfy-gpu-offload", "offload_test"))
            or "MODEL" not in info["output"]
        ):
            continue
        required = info["input"].get("required", {})
        models = [each for each, spec in required.items() if spec[0] == "MODEL"]
        values = {each: _default(spec) for each, spec in required.items() if spec[0] != "MODEL"}
        if len(models) == 1 and None not in values.values():
            yield PackNode(name, pack, info["output"].index("MODEL"), models[0], values)


def _default(spec: list[Any]) -> Any:
    """Return an input's default; None if it has to be linked, or offers nothing."""
    kind, settings = spec[0], spec[1] if len(spec) > 1 and isinstance(spec[1], dict) else {}
    offered = kind if isinstance(kind, list) else settings.get("options", []) if kind == "COMBO" else None
    if offered is not None:
        return settings.get("default", offered[0] if offered else None)
    return settings.get("default", _DEFAULTS.get(kind))


def tried(site: Site, node: PackNode, model: Model, listed: str) -> Tried:
    """Apply a node to both models, and look at both again without it."""
    site.comfyui.api.free()  # a node may have changed the loaded model itself
    seed = next(_SEEDS)
    try:
        locally = _run(site, model, None, {"plain": None, "local": node}, seed)
        if not locally.succeeded:
            return Tried(node, "fails locally too")
    except PromptRejectedError as error:
        return Tried(node, "fails locally too", str(error)[:100])
    remotely = _run(site, model, listed, {"remote": node}, seed)
    plain, local = site.comfyui.saved("plain"), site.comfyui.saved("local")
    if remotely.error is not None:
        kind = str(remotely.error["exception_type"])
        if kind.rpartition(".")[2] in _REFUSALS:
            refusal = Tried(node, "refused", " ".join(remotely.error_message.split())[:300])
            return _after(site, refusal, model, listed)
        return Tried(node, "crashes", remotely.summary[:600])
    if not torch.equal(local, site.comfyui.saved("remote")):
        return Tried(node, "DIFFERENT")
    outcome = "no effect" if torch.equal(local, plain) else "equal"
    return _after(site, Tried(node, outcome), model, listed)


def _after(site: Site, tried: Tried, model: Model, listed: str) -> Tried:
    """Return `tried`, or that a plain run of the remote model is another than a local one afterwards."""
    site.comfyui.api.free()
    seed = next(_SEEDS)
    if not _run(site, model, None, {"plain": None}, seed).succeeded:
        return tried  # the node breaks ComfyUI's own models too
    here, remotely = site.comfyui.saved("plain"), _run(site, model, listed, {"remote": None}, seed)
    if remotely.error is not None:
        is_named = str(remotely.error["exception_type"]).rpartition(".")[2] in _REFUSALS
        return tried if is_named else Tried(tried.node, "crashes afterwards", remotely.summary[:600])
    is_same = torch.equal(here, site.comfyui.saved("remote"))
    return tried if is_same else Tried(tried.node, "DIFFERENT afterwards")


def _run(site: Site, model: Model, listed: str | None, wanted: Mapping[str, PackNode | None], seed: int) -> Outcome:
    """Sample the model with each node, and without one where it is None; the name says how it is saved."""
    scene = Scene.of(model)
    flow = scene.workflow
    for name, node in wanted.items():
        loaded = flow.local(model) if listed is None else flow.remote(listed)
        if node is not None:
            number, _ = flow.add(node.name, **{node.model: loaded, **node.inputs})
            loaded = [number, node.output]
        scene.sample("KSampler", loaded, Sampling(seed=seed, steps=2), name)
    return site.comfyui.api.run(flow.graph)
