"""Measure what each codec does to finished pictures: digits by the bundled model, every tensor of a step coded.

    python benchmarks/quality.py --output plots

Both ways are coded: the latents that the model reads and the predictions it answers. The pictures are compared with
those of the run without coding at the same seed (PSNR, and SSIM, see picture_metrics.py), and read by a classifier;
so for several samplers and numbers of steps. Needs diffusers and scikit-learn, which the `bench` extra brings.

Bound: with the lossless codecs, the final latents equal those of the run without coding bit for bit. If not, the
exit status is 1.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).parent))
import arguments
import quality_report
from coded_model import CodedModel
from comfy_gpu_offload.digits.conditioning import CLASSES, conditioning, unconditional
from comfy_gpu_offload.digits.latent import decode, process_out
from comfy_gpu_offload.digits.model import load
from comfy_gpu_offload.digits.sampling import noise, schedule
from comfy_gpu_offload.io import codecs
from comfy_gpu_offload.io.buffers import tensor_bytes
from digit_classifier import Classifier
from picture_metrics import psnr_db, ssim
from quality_report import Row
from results import Bound, Results, conclude
from samplers import SAMPLERS

LOSSLESS: list[codecs.Codec | codecs.Chooser] = [codecs.RAW, codecs.AUTO]
LOSSY: list[codecs.Codec | codecs.Chooser] = [
    codec for codec in map(codecs.named, codecs.names()) if not codec.lossless
]


@dataclass(frozen=True)
class Drawn:
    """One run: its figures and its pictures `[B, 32, 32]`."""

    row: Row
    pictures: torch.Tensor


def main() -> int:
    """Sample with every codec and print the tables; return 1 if a lossless codec loses something."""
    options = _options()
    drawn = list(_draw(options))
    rows = [run.row for run in drawn]
    lossless = [row for row in rows if row.codec in {codec.name for codec in LOSSLESS}]
    equal = sum(row.equal for row in lossless)
    pictures = {(run.row.sampler, run.row.steps, run.row.codec): run.pictures[:CLASSES] for run in drawn}
    found = Results(
        "quality",
        rows,
        quality_report.tables(rows),
        [Bound.at_least("lossless runs whose final latents are equal bit for bit", equal, len(lossless), ".0f")],
        plots={
            "quality": lambda: quality_report.curves(rows),
            "quality_pictures": lambda: quality_report.sheet(pictures, max(options.steps)),
        },
    )
    return conclude(found, options)


def _options() -> argparse.Namespace:
    parser = arguments.parser(__doc__, seed_of="the noise that sampling starts from")
    parser.add_argument("--samplers", nargs="+", choices=SAMPLERS, default=list(SAMPLERS), metavar="NAME")
    parser.add_argument(
        "--steps", nargs="+", type=arguments.positive, default=[5, 10, 20], help="(default: 5 10 20)"
    )
    parser.add_argument("--guidance", type=arguments.number(0, 100), default=2.0, help="(default: %(default)s)")
    parser.add_argument(
        "--per-class", type=arguments.positive, default=10, help="pictures of each digit (default: %(default)s)"
    )
    parser.add_argument("--dtype", choices=["bfloat16", "float16"], default="bfloat16", help="of what crosses")
    return parser.parse_args()


def _draw(options: argparse.Namespace) -> Iterator[Drawn]:
    model, labels = load(getattr(torch, options.dtype)), list(range(CLASSES)) * options.per_class
    classifier = Classifier()
    progress: Any
    total = len(options.samplers) * len(options.steps) * len(LOSSLESS + LOSSY)
    with arguments.progress(total=total, unit="run") as progress:
        for sampler in options.samplers:
            for steps in options.steps:
                plain: torch.Tensor | None = None
                for codec in LOSSLESS + LOSSY:
                    progress.set_description(f"{sampler}, {steps} steps, {codec.name}")
                    coded = CodedModel(model, codec)
                    latents = _sample(coded, labels, sampler, steps, options)
                    plain = latents if plain is None else plain
                    pictures = decode(latents)
                    row = _row(sampler, steps, coded, (latents, plain), classifier.accuracy(pictures, labels))
                    yield Drawn(row, pictures)
                    progress.update()


@torch.no_grad()
def _sample(
    model: CodedModel, labels: list[int], sampler: str, steps: int, options: argparse.Namespace
) -> torch.Tensor:
    """Return the final latents `[B, 16, 8, 8]`, float32."""
    dtype: torch.dtype = getattr(torch, options.dtype)
    halves = zip(conditioning(labels), unconditional(len(labels)), strict=True)
    context, pooled = (torch.cat(pair).to(dtype) for pair in halves)

    def velocity(x: torch.Tensor, sigma: float) -> torch.Tensor:
        labelled, dropped = model.predict(torch.cat([x, x]).to(dtype), sigma, context, pooled).float().chunk(2)
        return dropped + options.guidance * (labelled - dropped)

    return process_out(SAMPLERS[sampler](velocity, noise(labels, options.seed), schedule(steps).tolist()))


def _row(
    sampler: str, steps: int, coded: CodedModel, latents: tuple[torch.Tensor, torch.Tensor], accuracy: float
) -> Row:
    """Return the row of a run; `latents` are its own and those of the run without coding."""
    here, plain = latents
    pictures, originals = decode(here), decode(plain)
    return Row(
        sampler=sampler,
        steps=steps,
        codec=coded.codec.name,
        lossless=coded.codec.lossless,
        equal=tensor_bytes(here) == tensor_bytes(plain),
        bits=8 * coded.bytes / coded.elements,
        relative_l2=float((here - plain).norm() / plain.norm()),
        psnr_db=psnr_db(pictures, originals),
        ssim=ssim(pictures, originals),
        accuracy=accuracy,
    )


if __name__ == "__main__":
    sys.exit(main())
