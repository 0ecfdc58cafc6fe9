"""A classifier that reads sampled digits.

A support vector machine is fitted on the real digits, and says how many samples show the label that was
asked for. That number measures the model, and what a lossy codec costs. Needs scikit-learn.
"""

from __future__ import annotations

from collections.abc import Sequence

from sklearn.svm import SVC
from torch import Tensor
from torch.nn import functional

from comfy_gpu_offload.digits.latent import BLOCK
from train_digits import load_pictures


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


def downscale(pictures: Tensor) -> Tensor:
    """Average each 4x4 block of pictures `[B, 32, 32]` (0..1) into `[B, 8, 8]`, 0..16."""
    return functional.avg_pool2d(pictures.unsqueeze(1), BLOCK).squeeze(1) * 16


def _features(pictures: Tensor) -> object:
    return downscale(pictures.cpu().float()).flatten(1).numpy()
