"""Tensors to measure codecs on: generated ones, those of a sampling run, and captured ones."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from comfy_gpu_offload.client.capture import SUFFIX
from comfy_gpu_offload.digits.model import load
from comfy_gpu_offload.digits.sampling import sample
from comfy_gpu_offload.io.digests import digest
from comfy_gpu_offload.io.dtypes import NAMES
from synthetic_pictures import picture, video

# Smaller tensors are ids, timesteps and the like, which take no time with any codec.
_FEWEST_BYTES = 4096


class Case(NamedTuple):
    """Tensors that are measured together; `source` is their origin."""

    source: str
    name: str
    tensors: list[torch.Tensor]


def generated(seed: int) -> Iterator[Case]:
    """Yield noise of a Flux latent's shape (1024²) in three dtypes, and T5 states padded to 512 tokens."""
    generator = torch.Generator().manual_seed(seed)
    latent = torch.randn(1, 16, 128, 128, generator=generator)
    for dtype in (torch.bfloat16, torch.float16, torch.float32):
        yield Case("generated", f"Gaussian {NAMES[dtype]}", [latent.to(dtype)])
    context = torch.zeros(1, 512, 4096)
    context[:, :20] = torch.randn(1, 20, 4096, generator=generator)
    yield Case("generated", "padded T5 BF16", [context.bfloat16()])


def decoded_pictures(seed: int) -> Iterator[Case]:
    """Yield pictures and a video as VAEs decode them, -1 to 1: `[1, 3, 1024, 1024]` and `[1, 3, 9, 240, 416]`.

    The case named U8 is the same picture as 8-bit values with its channels last.
    """
    generator = torch.Generator().manual_seed(seed)
    still = picture(1024, 1024, generator)[None]
    for dtype in (torch.bfloat16, torch.float16, torch.float32):
        yield Case("decoded pictures", f"1024² {NAMES[dtype]}", [still.to(dtype)])
    levels = ((still + 1) * 127.5).to(torch.uint8).movedim(1, -1).contiguous()
    yield Case("decoded pictures", "1024² U8", [levels])
    yield Case("decoded pictures", "video BF16", [video(9, 240, 416, generator)[None].bfloat16()])


def digits(seed: int, dtype: torch.dtype = torch.bfloat16, batch: int = 64, steps: int = 10) -> Iterator[Case]:
    """Yield what the bundled model reads and returns at each step while it draws digits: batch 64, guidance 2."""
    model = load(dtype)
    up: list[torch.Tensor] = []
    down: list[torch.Tensor] = []

    def recording(**inputs: torch.Tensor) -> tuple[torch.Tensor, ...]:
        up.append(inputs["hidden_states"].clone())
        outputs: tuple[torch.Tensor, ...] = model(**inputs)
        down.append(outputs[0].clone())
        return outputs

    sample(recording, [i % 10 for i in range(batch)], steps=steps, seed=seed, dtype=dtype)
    yield Case("digits trajectory", f"latents {NAMES[dtype]}", up)
    yield Case("digits trajectory", f"predictions {NAMES[dtype]}", down)


def captured(folder: Path, most: int) -> Iterator[Case]:
    """Yield a case for each session and tensor in the files of `COMFY_GPU_OFFLOAD_CAPTURE_DIR`, or any safetensors.

    A tensor that a later call repeats, as it does conditioning, counts once, because it is sent once. Of more than
    `most` different ones, that many are taken, spread over the run. Tensors below 4 KB are left out.

    Raises:
        SystemExit: there are no such files in the folder, or one cannot be read.
    """
    files = sorted(folder.glob(f"*{SUFFIX}"))
    if not files:
        raise SystemExit(f"no *{SUFFIX} in {folder}")
    cases: dict[tuple[str, str], dict[bytes, torch.Tensor]] = {}
    for path in files:
        for name, tensor in _read(path).items():
            if tensor.nbytes >= _FEWEST_BYTES and tensor.dtype in NAMES:
                cases.setdefault((_session(path), name), {}).setdefault(digest(tensor), tensor)
    for (session, name), tensors in sorted(cases.items()):
        yield Case(f"captured {session}", name, _spread(list(tensors.values()), most))


def _read(path: Path) -> dict[str, torch.Tensor]:
    try:
        return load_file(path)
    except (OSError, SafetensorError) as error:
        raise SystemExit(f"{path}: {error}") from error


def _session(path: Path) -> str:
    """Return the part of the name that the calls of one session share: all but the call's number."""
    stem, _, number = path.stem.rpartition("-")
    return stem if number.isdigit() and stem else path.stem


def _spread(tensors: list[torch.Tensor], most: int) -> list[torch.Tensor]:
    """Return at most `most` of them, the first and the last included."""
    if len(tensors) <= most:
        return tensors
    return [tensors[round(i * (len(tensors) - 1) / max(most - 1, 1))] for i in range(most)]
