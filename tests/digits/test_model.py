import json
from collections.abc import Iterator

import pytest
import torch

from comfy_gpu_offload.digits.latent import decode
from comfy_gpu_offload.digits.model import FOLDER, WEIGHTS, load
from comfy_gpu_offload.digits.sampling import sample

KEYS = 67


@pytest.fixture
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def test_the_folder_holds_config_and_weights_alone() -> None:
    assert sorted(path.name for path in FOLDER.iterdir()) == ["config.json", WEIGHTS.name]
    assert 2_000_000 < WEIGHTS.stat().st_size < 2_500_000


def test_the_config_names_no_path() -> None:
    text = (FOLDER / "config.json").read_text()
    config = json.loads(text)
    assert config["_class_name"] == "SD3Transformer2DModel"
    assert "_name_or_path" not in config
    assert "/" not in text


def test_the_weights_are_float16_under_diffusers_names() -> None:
    safetensors = pytest.importorskip("safetensors")
    with safetensors.safe_open(WEIGHTS, framework="pt") as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        assert file.metadata() == {"format": "pt"}
    assert len(tensors) == KEYS
    assert {tensor.dtype for tensor in tensors.values()} == {torch.float16}
    assert all(tensor.isfinite().all() for tensor in tensors.values())
    # comfy.model_detection.unet_config_from_diffusers_unet and convert_diffusers_mmdit look for these.
    assert tensors["transformer_blocks.0.attn.add_q_proj.weight"].shape == (128, 128)
    assert tensors["pos_embed.proj.weight"].shape == (128, 16, 2, 2)
    assert tensors["context_embedder.weight"].shape == (128, 48)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_load_gives_a_model_for_inference(dtype: torch.dtype) -> None:
    pytest.importorskip("diffusers")
    model = load(dtype)
    parameters = list(model.parameters())
    assert {parameter.dtype for parameter in parameters} == {dtype}
    assert all(parameter.requires_grad for parameter in parameters)  # as from_pretrained leaves them
    assert not model.training
    assert 1_000_000 < sum(parameter.numel() for parameter in parameters) < 1_200_000


@pytest.mark.usefixtures("one_thread")
def test_samples_of_one_label_differ() -> None:
    pytest.importorskip("diffusers")
    pictures = decode(sample(load(torch.float32), [8] * 6, steps=8))
    distances = torch.cdist(pictures.flatten(1), pictures.flatten(1)) + 100 * torch.eye(6)
    assert distances.min() > 2
