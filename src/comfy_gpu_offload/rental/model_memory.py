"""The memory of a GPU that a model needs, from the size of its file as far as that is known."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ..errors import ConfigError

DEFAULT_GB = 24.0
"""GB for a model that is not named: an image model of 12 billion weights in 8 bits, or of 6 billion in 16."""
# A model of file size S at the worker takes S, activations, and CUDA's own context.
_ACTIVATIONS, _CONTEXT_GB = 1.15, 3.0
_SUFFIXES = (".safetensors", ".gguf", ".sft")

# Sizes of the files of well-known models in GB (10^9 bytes), as Hugging Face lists them. The first pattern that
# matches counts, so a smaller form stands before the model itself.
_KNOWN: tuple[tuple[str, float], ...] = (
    (r"flux.*(q4|nf4|int4|fp4)", 6.8),
    (r"flux.*(fp8|q8)", 11.9),
    (r"flux", 23.8),
    (r"qwen.?image.*(fp8|q8)", 20.4),
    (r"qwen.?image", 40.9),
    (r"hidream.*(fp8|q8)", 17.1),
    (r"hidream", 34.2),
    (r"wan.*14b.*(fp8|q8)", 14.3),
    (r"wan.*14b", 28.6),
    (r"wan.*5b", 10.0),
    (r"wan.*1[._]?3b", 2.8),
    (r"hunyuan.?video.*(fp8|q8)", 13.2),
    (r"hunyuan.?video", 25.6),
    (r"ltx.*13b.*(fp8|q8)", 15.7),
    (r"ltx.*13b", 28.6),
    (r"ltx", 6.3),
    (r"z.?image", 12.3),
    (r"chroma.*(fp8|q8)", 9.2),
    (r"chroma", 17.8),
    (r"sd3[._]?5.*large.*fp8", 8.2),
    (r"sd3[._]?5.*large", 16.5),
    (r"sd3", 5.2),
    (r"(sdxl|sd_?xl|xl)", 6.9),
    (r"(sd.?1|v1-5|sd15)", 4.3),
)


@dataclass(frozen=True)
class MemoryNeed:
    """Memory that a GPU must have.

    Attributes:
        gigabytes: in 10^9 bytes.
        reason: where the figure comes from, in words.
    """

    gigabytes: float
    reason: str


def memory_need(memory_gb: float | None, model: str | None, folders: Sequence[Path] = ()) -> MemoryNeed:
    """Return the memory that a GPU must have.

    Args:
        memory_gb: what the user asks for; it counts as it is.
        model: a model's name, or the path of its file on this machine.
        folders: where to look for a file of that name.

    Raises:
        ConfigError: nothing is known of the model.
    """
    if memory_gb is not None:
        return MemoryNeed(memory_gb, "as asked for")
    if model is None:
        return MemoryNeed(DEFAULT_GB, "for a model of up to 18 GB; name yours with --model, or say --memory GB")
    file = _file_of(model, folders)
    if file is not None:
        return _for_size(file.stat().st_size / 1e9, f"{file.name} on this machine")
    for pattern, size_gb in _KNOWN:
        if re.search(pattern, Path(model).name, re.IGNORECASE):
            return _for_size(size_gb, f"{model}, by its name")
    raise ConfigError(
        f"--model {model:.100}: how large it is, is not known here. Add --memory GB: its file's size, a sixth "
        "more, and 3 GB."
    )


def _for_size(size_gb: float, of: str) -> MemoryNeed:
    need = size_gb * _ACTIVATIONS + _CONTEXT_GB
    return MemoryNeed(need, f"{size_gb:.1f} GB of {of}, with room to compute in")


def _file_of(model: str, folders: Sequence[Path]) -> Path | None:
    path = Path(model)
    if path.suffix.lower() not in _SUFFIXES:
        return None
    if path.is_file():
        return path
    if path.is_absolute() or ".." in path.parts:
        return None
    for folder in folders:
        found = next((each for each in folder.rglob(path.name) if each.is_file()), None)
        if found is not None:
            return found
    return None
