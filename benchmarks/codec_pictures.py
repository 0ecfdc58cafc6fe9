"""What each codec does to finished pictures: digits by the bundled model, everything coded that crosses each step.

    python benchmarks/codec_pictures.py --sheet sheet.png

Both ways are coded: the latents that the model reads and the predictions it answers. The pictures are compared with
those of the same run uncoded, and read by a classifier. Needs diffusers and scikit-learn.
"""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from comfy_gpu_offload.digits.conditioning import CLASSES
from comfy_gpu_offload.digits.evaluate import Classifier
from comfy_gpu_offload.digits.latent import contact_sheet, decode
from comfy_gpu_offload.digits.model import load
from comfy_gpu_offload.digits.sampling import sample
from comfy_gpu_offload.io import codecs
from comfy_gpu_offload.io.buffers import tensor_bytes, tensor_from
from comfy_gpu_offload.io.dtypes import NAMES

CODECS: list[codecs.Codec | codecs.Chooser] = [
    codecs.RAW,
    codecs.AUTO,
    codecs.Int8Block(),
    codecs.Int8Channel(),
    codecs.Fp8(),
    codecs.Int4Block(),
]


@dataclass(frozen=True)
class Row:
    """One codec's pictures; no PSNR where they are the same. Bits: what crossed, for each element."""

    codec: str
    bits: float
    relative_l2: float
    psnr_db: float | None
    accuracy: float


class Coded:
    """The model as seen through a codec; counts what crosses."""

    def __init__(self, model: torch.nn.Module, codec: codecs.Codec | codecs.Chooser) -> None:
        self._model, self._codec = model, codec
        self.elements = self.bytes = 0

    def __call__(self, *, hidden_states: torch.Tensor, **others: Any) -> tuple[torch.Tensor, ...]:
        (prediction,) = self._model(hidden_states=self._cross(hidden_states), **others)
        return (self._cross(prediction),)

    def _cross(self, tensor: torch.Tensor) -> torch.Tensor:
        dtype, shape = NAMES[tensor.dtype], tuple(tensor.shape)
        used, payload = codecs.encode(self._codec, tensor_bytes(tensor), dtype, shape)
        self.elements += tensor.numel()
        self.bytes += len(payload)
        data = used.decode(memoryview(bytearray(payload)), tensor.nbytes, dtype, shape)
        return tensor_from(data, tensor.dtype, shape)


def main() -> int:
    """Samples with every codec, prints the table, writes JSON and the pictures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=0, help="of the noise (default: %(default)s)")
    parser.add_argument("--steps", type=int, default=20, help="(default: %(default)s)")
    parser.add_argument("--per-class", type=int, default=10, help="pictures of each digit (default: %(default)s)")
    parser.add_argument("--dtype", choices=["bfloat16", "float16"], default="bfloat16", help="of what crosses")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the rows here")
    parser.add_argument("--sheet", type=Path, metavar="PNG", help="also write the pictures here, a row a codec")
    options = parser.parse_args()
    dtype: torch.dtype = getattr(torch, options.dtype)
    model, labels = load(dtype), list(range(CLASSES)) * options.per_class
    classifier = Classifier()
    rows: list[Row] = []
    latents: list[torch.Tensor] = []
    for codec in tqdm(CODECS, leave=False):
        coded = Coded(model, codec)
        latents.append(sample(coded, labels, steps=options.steps, seed=options.seed, dtype=dtype))
        rows.append(
            _row(codec.name, coded, latents[-1], latents[0], classifier.accuracy(decode(latents[-1]), labels))
        )
    _print(rows)
    if options.json:
        options.json.write_text(json.dumps([asdict(row) for row in rows], indent=1))
    if options.sheet:
        first = torch.cat([decode(one)[:CLASSES] for one in latents])
        contact_sheet(first, columns=CLASSES).save(options.sheet)
    return 0


def _row(name: str, coded: Coded, latents: torch.Tensor, plain: torch.Tensor, accuracy: float) -> Row:
    error = float((decode(latents) - decode(plain)).square().mean())
    return Row(
        codec=name,
        bits=8 * coded.bytes / coded.elements,
        relative_l2=float((latents - plain).norm() / plain.norm()),
        psnr_db=-10 * torch.tensor(error).log10().item() if error else None,
        accuracy=accuracy,
    )


def _print(rows: list[Row]) -> None:
    print(f"{'':<14}{'bits':>7}{'final latents off by':>22}{'PSNR dB':>9}{'read right':>12}")
    for row in rows:
        psnr = "equal" if row.psnr_db is None else f"{row.psnr_db:.1f}"
        print(f"{row.codec:<14}{row.bits:7.2f}{row.relative_l2:22.2%}{psnr:>9}{row.accuracy:12.1%}")


if __name__ == "__main__":
    sys.exit(main())
