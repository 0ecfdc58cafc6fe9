"""Reads sampled digits with a classifier: `python -m comfy_gpu_offload.digits.evaluate`.

A support vector machine is fitted on the real digits, and says how many samples show the label that was
asked for. That number measures the model, and what a lossy codec costs. Needs scikit-learn.
"""

from __future__ import annotations

import argparse
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import torch
from sklearn.svm import SVC
from torch import Tensor

from .conditioning import CLASSES
from .latent import contact_sheet, decode, downscale
from .model import load
from .sampling import sample
from .train import load_pictures

log = logging.getLogger(__name__)

PER_CLASS: Final = 20
LABELS: Final = tuple(range(CLASSES)) * PER_CLASS


class Classifier:
    """A support vector machine with a radial kernel, fitted on all real digits, averaged to 8x8."""

    def __init__(self) -> None:
        pictures, labels = load_pictures()
        self._svm = SVC(C=10.0).fit(_features(pictures), labels.numpy())

    def read(self, pictures: Tensor) -> list[int]:
        """Return the digit read off each picture `[B, 32, 32]` (0..1)."""
        return [int(label) for label in self._svm.predict(_features(pictures))]

    def accuracy(self, pictures: Tensor, labels: Sequence[int]) -> float:
        """Return the share, 0..1, of pictures `[B, 32, 32]` (0..1) that are read as their labels."""
        read = self.read(pictures)
        return sum(a == b for a, b in zip(read, labels, strict=True)) / len(read)


def _features(pictures: Tensor) -> object:
    return downscale(pictures.cpu().float()).flatten(1).numpy()


def main() -> None:
    """Log the accuracy on 200 samples, and write a contact sheet of them if asked to."""
    parser = argparse.ArgumentParser(description="Read 200 sampled digits with a classifier.")
    parser.add_argument("--dtype", choices=["float32", "bfloat16", "float16"], default="float32")
    parser.add_argument("--device", default="cpu", help="where the model runs (default: cpu)")
    parser.add_argument("--seed", type=int, default=0, help="of the noise (default: 0)")
    parser.add_argument("--sheet", type=Path, help="write a PNG contact sheet here")
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    dtype: torch.dtype = getattr(torch, arguments.dtype)
    model = load(dtype, arguments.device)
    latents = sample(model, LABELS, dtype=dtype, device=arguments.device, seed=arguments.seed)
    pictures = decode(latents)
    accuracy = Classifier().accuracy(pictures, LABELS)
    log.info("%s: %.1f %% of %d samples read right", arguments.dtype, 100 * accuracy, len(LABELS))
    if arguments.sheet:
        contact_sheet(pictures, columns=2 * CLASSES).save(arguments.sheet)


if __name__ == "__main__":
    main()
