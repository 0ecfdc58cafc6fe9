"""The choice of the files in a folder that hold a model's weights, as diffusers makes it; their dtype."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import torch
from safetensors import safe_open

from ...io.dtypes import DTYPES

# The names that diffusers and transformers give a model's file.
WEIGHTS, TRANSFORMERS_WEIGHTS = "diffusion_pytorch_model.safetensors", "model.safetensors"
STANDARD = (WEIGHTS, TRANSFORMERS_WEIGHTS)
INDEX = ".index.json"
_MAX_INDEX_BYTES = 16 * 1024**2


def taken(folder: Path, names: Iterable[str]) -> list[str]:
    """Return which of a folder's safetensors files, by name, `from_pretrained` loads where no variant is asked for.

    The shards of its index, else the file of the standard name. Others (an fp16 variant beside it) only where there
    is neither.
    """
    found = sorted(names)
    for standard in STANDARD:
        shards = _indexed(folder / f"{standard}{INDEX}")
        if shards:
            return [name for name in found if name in shards]
    return next(([standard] for standard in STANDARD if standard in found), found)


def _indexed(index: Path) -> frozenset[str]:
    """Return the files that an index names; none where there is no index that diffusers could read."""
    try:
        if index.stat().st_size > _MAX_INDEX_BYTES:
            return frozenset()
        places = json.loads(index.read_text(encoding="utf-8"))["weight_map"]
    except (OSError, ValueError, LookupError, TypeError, RecursionError):
        return frozenset()
    values = places.values() if isinstance(places, Mapping) else ()
    return frozenset(name for name in values if isinstance(name, str))


def stored_dtype(files: Sequence[Path]) -> torch.dtype:
    """Return the floating-point dtype of most of the tensors in these files; float32 where there are none."""
    counts: Counter[str] = Counter()
    for file in files:
        with safe_open(file, framework="pt") as tensors:
            counts.update(tensors.get_slice(key).get_dtype() for key in tensors.keys())  # noqa: SIM118  # no mapping
    floats = [name for name, _ in counts.most_common() if name in {"F16", "BF16", "F32"}]
    return DTYPES[floats[0]] if floats else torch.float32
