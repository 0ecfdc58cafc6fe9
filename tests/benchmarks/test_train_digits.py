import json
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

pytest.importorskip("sklearn", reason="training reads scikit-learn's digits")
pytest.importorskip("diffusers", reason="the digits model is a diffusers model")

import train_digits as train
from comfy_gpu_offload.digits.model import FOLDER, WEIGHTS


def generator() -> torch.Generator:
    return torch.Generator().manual_seed(3)


def test_pictures_are_the_real_digits() -> None:
    pictures, labels = train.load_pictures()
    assert pictures.shape == (1797, 32, 32)
    assert labels.bincount().min() > 170
    assert pictures.min() == 0
    assert pictures.max() == 1


def test_upscale_keeps_the_range_and_leaves_a_margin() -> None:
    digits = torch.zeros(2, 8, 8)
    digits[1] = 16
    blank, full = train.upscale(digits)
    assert torch.equal(blank, torch.zeros(32, 32))
    assert torch.equal(full[8:24, 8:24], torch.ones(16, 16))
    assert full[0].max() < 0.1
    assert full[:, 0].max() < 0.1


def test_the_bundled_config_is_the_architecture() -> None:
    config = json.loads((FOLDER / "config.json").read_text())
    assert {name: config[name] for name in train.ARCHITECTURE} == train.ARCHITECTURE


def test_jitter_moves_a_little() -> None:
    pictures = train.load_pictures()[0][:50]
    moved = train.jitter(pictures, generator())
    ink, moved_ink = pictures.sum((1, 2)), moved.sum((1, 2))
    torch.testing.assert_close(moved_ink, ink, rtol=0.15, atol=0)
    distances = (moved - pictures).pow(2).mean((1, 2)).sqrt()
    assert distances.min() > 0
    assert distances.mean() < 0.2


def test_the_loss_of_a_perfect_model_is_nothing() -> None:
    latents = torch.randn(4, 16, 8, 8, generator=generator())

    class Oracle(nn.Module):
        def forward(self, hidden_states: Tensor, timestep: Tensor, **_: object) -> tuple[Tensor]:
            return ((hidden_states - latents) / (timestep / 1000).view(-1, 1, 1, 1),)

    unused = torch.zeros(4)
    assert train.flow_loss(Oracle(), latents, unused, unused, generator()) < 1e-8


def test_the_loss_of_an_idle_model_is_the_variance_of_the_velocity() -> None:
    class Idle(nn.Module):
        def forward(self, hidden_states: Tensor, **_: object) -> tuple[Tensor]:
            return (torch.zeros_like(hidden_states),)

    latents, unused = torch.full((64, 16, 8, 8), 2.0), torch.zeros(64)
    loss = train.flow_loss(Idle(), latents, unused, unused, generator())
    assert loss.item() == pytest.approx(5.0, abs=0.1)


def test_a_moment_of_training_gives_a_file_like_the_bundled_one(tmp_path: Path) -> None:
    safetensors = pytest.importorskip("safetensors.torch")
    train.save(train.train(minutes=1e-6, seed=0), tmp_path)
    written = safetensors.load_file(tmp_path / WEIGHTS.name)
    bundled = safetensors.load_file(WEIGHTS)
    assert {name: (t.shape, t.dtype) for name, t in written.items()} == {
        name: (t.shape, t.dtype) for name, t in bundled.items()
    }
    assert (tmp_path / "config.json").exists()
