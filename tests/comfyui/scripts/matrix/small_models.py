"""Small diffusion models of any architecture that ComfyUI knows, with random weights, as files that it detects."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import comfy.model_detection
import comfy.supported_models
import torch
from safetensors.torch import save_file

Weights = dict[str, torch.Tensor]

# As many random numbers as are drawn for a tensor; larger ones repeat them.
_DRAWN = 1 << 18
# Gates and tables that scale what they are added to: small, so that activations keep their size.
_SMALL = ("modulation", "scale_shift_table", "pos_embed", "pos_embedding", "positional_encoding", "adaLN", "adaln")


class NotHereError(Exception):
    """The release of ComfyUI has no such architecture, or none that is this small."""


@dataclass(frozen=True)
class SmallModel:
    """The contents of a model's file.

    Attributes:
        config: a class of `comfy.supported_models`.
        sizes: of its network, what differs from what that class names.
        newer: sizes that only releases with more of them than the oldest know.
        fixed: sizes in releases that take them for granted.
        folder, prefix: where its file lies, and what its keys begin with.
        further: entries of the file besides the network's: shapes by their names.
        metadata: of the file.
    """

    config: str
    sizes: Mapping[str, Any]
    newer: Mapping[str, Any] = field(default_factory=dict)
    fixed: Mapping[str, Any] = field(default_factory=dict)
    folder: str = "diffusion_models"
    prefix: str = ""
    dtype: torch.dtype = torch.float32
    further: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    metadata: Mapping[str, str] = field(default_factory=dict)

    def write(self, folder: Path) -> str:
        """Write the file, and return its name.

        Raises:
            NotHereError: this release does not have it, or does not recognise it.
        """
        shapes = self.shapes()
        weights = {self.prefix + key: tensor.to(self.dtype) for key, tensor in random_weights(shapes)}
        weights |= dict(random_weights(self.further))
        name = f"{self.config}.safetensors"
        (folder / self.folder).mkdir(parents=True, exist_ok=True)
        save_file(weights, folder / self.folder / name, dict(self.metadata) or None)
        return name

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Return the shapes of its network's weights.

        Raises:
            NotHereError: as `write`.
        """
        kind = getattr(comfy.supported_models, self.config, None)
        if kind is None:
            raise NotHereError("not in this release")
        failed = NotHereError("")
        for sizes in self._tries():
            try:
                shapes = self._built(kind, sizes)
                self._check_detected(shapes)
            except (NotHereError, TypeError) as error:
                failed = NotHereError(str(error))
            else:
                return shapes
        raise failed

    def _tries(self) -> Iterator[dict[str, Any]]:
        for newer in (self.newer, {}) if self.newer else ({},):
            yield {**self.sizes, **newer}
            if self.fixed:
                yield {**self.sizes, **newer, **self.fixed}

    def _built(self, kind: Any, sizes: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
        config = kind({**kind.unet_config, **sizes})
        config.set_inference_dtype(torch.float32, None)
        return _network_shapes(config, self._further())

    def _further(self) -> Weights:
        return {name: torch.zeros(shape) for name, shape in self.further.items()}

    def _check_detected(self, shapes: Mapping[str, tuple[int, ...]]) -> None:
        """Check what ComfyUI detects: it may take a small model for another one, or take sizes for granted."""
        keys = {self.prefix + key: torch.empty(shape, device="meta") for key, shape in shapes.items()}
        keys |= self._further()
        metadata = dict(self.metadata) or None
        found = comfy.model_detection.model_config_from_unet(keys, self.prefix, metadata=metadata)
        if found is None or type(found).__name__ != self.config:
            raise NotHereError(f"detected as {'nothing' if found is None else type(found).__name__}")
        found.set_inference_dtype(torch.float32, None)
        detected = _network_shapes(found, keys)
        if detected != dict(shapes):
            wrong = sorted(key for key in {*detected, *shapes} if detected.get(key) != shapes.get(key))
            raise NotHereError(f"{len(wrong)} of its sizes are fixed: {wrong[:2]}")


def _network_shapes(config: Any, state_dict: Weights) -> dict[str, tuple[int, ...]]:
    with torch.no_grad():
        try:
            model = config.get_model(state_dict, "", device="meta")
        except RuntimeError:  # computes while it is made
            model = config.get_model(state_dict, "", device="cpu")
    return {key: tuple(tensor.shape) for key, tensor in model.diffusion_model.state_dict().items()}


def random_weights(shapes: Mapping[str, tuple[int, ...]]) -> Iterator[tuple[str, torch.Tensor]]:
    """Draw weights that keep the size of activations: results are finite, and depend on all of them."""
    generator = torch.Generator().manual_seed(1)
    for name, shape in shapes.items():
        drawn = _random(shape, generator)
        if name.endswith("bias"):
            yield name, drawn * 0.02
        elif len(shape) < 2:
            yield name, 1 + drawn * 0.1
        elif any(part in name for part in _SMALL):
            yield name, drawn * 0.1 * min(1.0, 10 * drawn[0].numel() ** -0.5)
        else:
            yield name, drawn * drawn[0].numel() ** -0.5


def _random(shape: tuple[int, ...], generator: torch.Generator) -> torch.Tensor:
    size = torch.Size(shape).numel()
    drawn = torch.randn(min(size, _DRAWN), generator=generator)
    return drawn.repeat(-(-size // _DRAWN))[:size].reshape(shape).clone()
