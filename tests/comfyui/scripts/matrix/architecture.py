"""One of ComfyUI's architectures in a row of the matrix."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from small_models import SmallModel

Shape = tuple[int, ...]


@dataclass(frozen=True)
class Architecture:
    """A model, and a KSampler's inputs for it.

    Attributes:
        latent: its shape; of a latent of several parts, each one's.
        context: tokens and width of the text's embedding.
        always: what its conditioning always has besides.
        own: what its conditioning may have besides, by what it is called; with `cfg`, or a `context`, of its own.
        sampling: the model sampling node that goes with it.
    """

    model: SmallModel
    media: str
    latent: Shape | tuple[Shape, ...]
    context: Shape
    always: Mapping[str, Any] = field(default_factory=dict)
    own: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    sampling: str = "ModelSamplingSD3"

    @property
    def name(self) -> str:
        return self.model.config
