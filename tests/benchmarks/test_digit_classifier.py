from collections.abc import Iterator

import pytest
import torch

pytest.importorskip("diffusers", reason="the digits model is a diffusers model")
pytest.importorskip("sklearn", reason="the classifier comes from scikit-learn")

from comfy_gpu_offload.digits.latent import decode
from comfy_gpu_offload.digits.model import load
from comfy_gpu_offload.digits.sampling import sample
from digit_classifier import Classifier, downscale

LABELS = tuple(range(10)) * 20


@pytest.fixture
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def test_downscale_averages_blocks() -> None:
    picture = torch.zeros(1, 32, 32)
    picture[0, 4:8, 8:12] = 1
    picture[0, 0, 0] = 1
    expected = torch.zeros(1, 8, 8)
    expected[0, 1, 2] = 16
    expected[0, 0, 0] = 1
    assert torch.equal(downscale(picture), expected)


@pytest.mark.usefixtures("one_thread")
def test_samples_show_the_labels_asked_for() -> None:
    classifier = Classifier()
    pictures = decode(sample(load(torch.bfloat16), LABELS, dtype=torch.bfloat16))
    assert classifier.accuracy(pictures, LABELS) >= 0.95
    turned = classifier.accuracy(pictures, [(label + 1) % 10 for label in LABELS])
    assert turned < 0.05, "the classifier must not agree with everything"
