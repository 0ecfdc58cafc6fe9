"""Workflows, in the form that ComfyUI's API takes."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any, Literal

from .api import Graph

Link = list[Any]


@dataclass(frozen=True)
class Model:
    """A model file, with latents and conditioning that fit it; `folder` decides which stock loader reads it."""

    name: str
    file: str
    latent: tuple[int, ...]
    tokens: int
    width: int
    pooled: int = 0
    extra: str = "{}"
    folder: Literal["diffusion_models", "checkpoints"] = "diffusion_models"

    def __str__(self) -> str:
        return self.name

    def batch(self, size: int) -> tuple[int, ...]:
        return (size, *self.latent[1:])


DIGITS = Model("digits", "digits.safetensors", (1, 16, 8, 8), tokens=1, width=48, pooled=64)
MMDIT = Model("mmdit", "mmdit.safetensors", (1, 16, 16, 12), tokens=20, width=96, pooled=64)
WAN = Model("wan", "wan.safetensors", (1, 16, 3, 8, 8), tokens=12, width=4096)
LTXV = Model(
    "ltxv",
    "ltxv.safetensors",
    (1, 128, 2, 6, 4),
    tokens=10,
    width=4096,
    extra=json.dumps({"attention_mask": {"ones": [1, 10]}, "frame_rate": 24.0}),
)
UNET = Model("unet", "video/unet.safetensors", (1, 4, 12, 8), tokens=16, width=768)
TWO_LEVELS = Model("two levels", "two-levels.safetensors", (1, 4, 12, 8), tokens=16, width=768)
CHECKPOINT = Model("checkpoint", "sd15.safetensors", (1, 4, 8, 8), tokens=16, width=768, folder="checkpoints")
MODELS = (DIGITS, MMDIT, WAN, LTXV, UNET, CHECKPOINT)


@dataclass(frozen=True)
class Sampling:
    """KSampler's settings."""

    seed: int = 1
    steps: int = 3
    cfg: float = 4.0
    sampler_name: str = "euler"
    scheduler: str = "normal"
    denoise: float = 1.0


@dataclass
class Workflow:
    """A workflow under construction: nodes in the order they were added."""

    graph: Graph = field(default_factory=dict)

    def add(self, class_type: str, /, **inputs: Any) -> Link:
        """Add a node, and return a link to its first output."""
        node = str(len(self.graph) + 1)
        self.graph[node] = {"class_type": class_type, "inputs": inputs}
        return [node, 0]

    def local(self, model: Model, weight_dtype: str = "default") -> Link:
        """Add the stock loader."""
        if model.folder == "checkpoints":
            return self.add("CheckpointLoaderSimple", ckpt_name=model.file)
        return self.add("UNETLoader", unet_name=model.file, weight_dtype=weight_dtype)

    def remote(self, listed: str, *, use_runpod: bool = True, weight_dtype: str = "default") -> Link:
        """Add our loader; `listed` is the model's name in the worker's list."""
        return self.add("RemoteModelLoader", model_name=listed, use_runpod=use_runpod, weight_dtype=weight_dtype)

    def conditioning(self, model: Model, seed: int) -> Link:
        return self.add(
            "OffloadTestConditioning",
            seed=seed,
            tokens=model.tokens,
            width=model.width,
            pooled=model.pooled,
            extra=model.extra,
        )

    def latent(self, shape: tuple[int, ...], seed: int = 0) -> Link:
        """Add a latent of zeros, or of random values of that seed."""
        return self.add("OffloadTestLatent", shape=",".join(map(str, shape)), seed=seed)

    def save(self, latent: Link, name: str) -> None:
        self.add("OffloadTestSaveLatent", latent=latent, name=name)


@dataclass
class Scene:
    """A workflow with conditioning and a latent, in which models are sampled."""

    model: Model
    latent: Link
    positive: Link
    negative: Link
    workflow: Workflow

    @classmethod
    def of(cls, model: Model, *, batch: int = 1, latent_seed: int = 0, seed: int = 11) -> Scene:
        """Begin a scene; `seed` is the conditioning's."""
        workflow = Workflow()
        return cls(
            model=model,
            latent=workflow.latent(model.batch(batch), latent_seed),
            positive=workflow.conditioning(model, seed),
            negative=workflow.conditioning(model, seed + 1000),
            workflow=workflow,
        )

    def sample(self, node: str, model: Link, sampling: Sampling, save_as: str, offload: str = "each step") -> None:
        """Sample `model` with KSampler or RemoteSampler, and save the latent."""
        further = {"offload": offload} if node == "RemoteSampler" else {}
        sampled = self.workflow.add(
            node,
            model=model,
            positive=self.positive,
            negative=self.negative,
            latent_image=self.latent,
            **vars(sampling),
            **further,
        )
        self.workflow.save(sampled, save_as)
