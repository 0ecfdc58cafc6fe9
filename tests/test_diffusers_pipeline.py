"""A diffusers pipeline whose network is remote gives the local pictures, bit for bit."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.support.process import worker_process

from comfy_gpu_offload import Session, connect

diffusers = pytest.importorskip("diffusers")


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Make a folder of small models with random weights."""
    folder = tmp_path_factory.mktemp("models")
    torch.manual_seed(0)
    unet = diffusers.UNet2DModel(
        sample_size=16,
        in_channels=3,
        out_channels=3,
        block_out_channels=(32, 32),
        down_block_types=("DownBlock2D", "AttnDownBlock2D"),
        up_block_types=("AttnUpBlock2D", "UpBlock2D"),
        layers_per_block=1,
        norm_num_groups=8,
    )
    unet.save_pretrained(folder / "unet")
    conditioned = diffusers.UNet2DConditionModel(
        sample_size=16,
        block_out_channels=(32, 64),
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
        layers_per_block=1,
        norm_num_groups=8,
        cross_attention_dim=32,
        attention_head_dim=8,
    )
    conditioned.save_pretrained(folder / "conditioned")
    return folder


@pytest.fixture(scope="module")
def session(models: Path) -> Iterator[Session]:
    arguments = ("--backend", "diffusers", "--port", "0", "--cpu", "--models", str(models))
    with worker_process(*arguments, cwd=models) as worker, connect(worker.url) as made:
        yield made


def pictures(pipe: Any, steps: int) -> Any:
    pipe.set_progress_bar_config(disable=True)
    generator = torch.Generator().manual_seed(7)
    return pipe(batch_size=2, num_inference_steps=steps, generator=generator, output_type="np").images


@pytest.mark.parametrize("scheduler", ["DDPMScheduler", "DDIMScheduler"])
def test_a_pipeline_draws_the_same_with_a_remote_network(session: Session, models: Path, scheduler: str) -> None:
    kinds = {"DDPMScheduler": diffusers.DDPMPipeline, "DDIMScheduler": diffusers.DDIMPipeline}
    unet = diffusers.UNet2DModel.from_pretrained(models / "unet", low_cpu_mem_usage=False)
    pipe = kinds[scheduler](unet, getattr(diffusers, scheduler)())
    local = pictures(pipe, 4)
    remote = session.model("unet")
    pipe.unet = remote
    assert (pictures(pipe, 4) == local).all()
    assert remote.calls == 4
    assert local.std() > 0.05


def test_every_way_to_call_a_network_gives_what_the_local_one_gives(session: Session, models: Path) -> None:
    local = diffusers.UNet2DModel.from_pretrained(models / "unet", low_cpu_mem_usage=False)
    remote = session.model("unet")
    x = torch.randn(1, 3, 16, 16, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        expected = local(x, 10).sample
        assert torch.equal(remote(x, 10).sample, expected)
        assert torch.equal(remote(x, 10)[0], expected)
        assert torch.equal(remote(x, 10, return_dict=False)[0], expected)
        assert torch.equal(remote(sample=x, timestep=torch.tensor(10)).sample, expected)
    assert remote.config.in_channels == local.config.in_channels
    assert remote.dtype is local.dtype


@torch.inference_mode()
def picture_from_picture(unet: Any, vae: Any, dtype: torch.dtype) -> torch.Tensor:
    """Encode a picture `[1, 3, 32, 32]`, add half the noise, denoise and decode it, as a pipeline does.

    A picture as Pillow has it lies with its channels last in memory, and so then does its latent.
    """
    generator = torch.Generator().manual_seed(11)
    picture = torch.rand(1, 32, 32, 3, generator=generator).permute(0, 3, 1, 2).to(dtype)
    scheduler = diffusers.DDIMScheduler()
    scheduler.set_timesteps(6)
    latent = vae.encode(picture).latent_dist.mode()
    assert not latent.is_contiguous()
    noise = torch.randn(latent.shape, generator=generator).to(dtype)
    context = torch.randn(2, 7, 32, generator=generator).to(dtype)
    latent = scheduler.add_noise(latent, noise, scheduler.timesteps[2:3])
    for timestep in scheduler.timesteps[2:]:
        guess = unet(torch.cat([latent] * 2), timestep, encoder_hidden_states=context, return_dict=False)[0]
        without, with_text = guess.chunk(2)
        latent = scheduler.step(without + 4.0 * (with_text - without), timestep, latent).prev_sample
    decoded: torch.Tensor = vae.decode(latent).sample
    return decoded


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32], ids=str)
def test_a_picture_drawn_from_a_picture_is_the_local_one(
    session: Session, models: Path, dtype: torch.dtype
) -> None:
    torch.manual_seed(3)
    vae = diffusers.AutoencoderKL(block_out_channels=(16,), norm_num_groups=8, sample_size=32).to(dtype).eval()
    kind = diffusers.UNet2DConditionModel
    local = kind.from_pretrained(models / "conditioned", torch_dtype=dtype, low_cpu_mem_usage=False)
    remote = session.model("conditioned", str(dtype).removeprefix("torch."))
    expected = picture_from_picture(local, vae, dtype)
    assert torch.equal(picture_from_picture(remote, vae, dtype), expected)
    assert remote.calls == 4
    assert expected.std() > 0.05


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode, torch.enable_grad])
@pytest.mark.parametrize("caches", [True, False])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_autocast_around_a_remote_network_is_autocast_around_a_local_one(
    session: Session, models: Path, dtype: torch.dtype, caches: bool, mode: type
) -> None:
    local = diffusers.UNet2DModel.from_pretrained(models / "unet", low_cpu_mem_usage=False)
    remote = session.model("unet")
    x = torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(5))
    with mode():
        plain = local(x, 10).sample
        with torch.autocast("cpu", dtype=dtype, cache_enabled=caches):
            expected, found = local(x, 10).sample, remote(x, 10).sample
        again = remote(x, 10).sample
    assert (found.dtype, found.stride()) == (expected.dtype, expected.stride())
    assert torch.equal(found, expected)
    assert not torch.equal(expected.float(), plain)
    assert torch.equal(again, plain)
