"""A diffusers pipeline with text encoder, network and VAE at a worker gives the local pictures, bit for bit."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from tests.support.process import worker_process

from comfy_gpu_offload import Session, connect
from comfy_gpu_offload.errors import ModelFailedError, OffloadError

diffusers = pytest.importorskip("diffusers")
transformers = pytest.importorskip("transformers")

_WORDS, _WIDTH = 100, 32


class Tokenizer:
    """Makes a number of each letter, in the form in which pipelines call transformers' tokenizers."""

    model_max_length = 16
    added_tokens_encoder: dict[str, int] = {}  # noqa: RUF012

    def __call__(self, prompt: Any, **_: Any) -> Any:
        prompts = [prompt] if isinstance(prompt, str) else prompt
        rows = [[ord(letter) % (_WORDS - 2) for letter in each][: self.model_max_length - 1] for each in prompts]
        padded = [row + [_WORDS - 1] * (self.model_max_length - len(row)) for row in rows]
        return SimpleNamespace(input_ids=torch.tensor(padded), attention_mask=torch.ones(len(rows), 16))

    def tokenize(self, prompt: str) -> list[str]:
        return list(prompt)

    def batch_decode(self, *_: Any) -> list[str]:
        return []


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Make the folder of a small pipeline with random weights, and a model of transformers that has no class."""
    folder = tmp_path_factory.mktemp("models")
    torch.manual_seed(0)
    text = {"vocab_size": _WORDS, "hidden_size": _WIDTH, "intermediate_size": 48, "num_hidden_layers": 2}
    text |= {"num_attention_heads": 4, "max_position_embeddings": 16, "projection_dim": 24}
    text |= {"eos_token_id": _WORDS - 1, "bos_token_id": 0, "pad_token_id": 1}
    config = transformers.CLIPTextConfig(**text)
    transformers.CLIPTextModel(config).save_pretrained(folder / "small" / "text_encoder")
    transformers.CLIPTextModelWithProjection(config).save_pretrained(folder / "small" / "text_encoder_2")
    t5 = {"vocab_size": _WORDS, "d_model": 32, "d_kv": 8, "d_ff": 64, "num_layers": 2, "num_heads": 4}
    transformers.T5EncoderModel(transformers.T5Config(**t5)).save_pretrained(folder / "small" / "text_encoder_3")
    diffusers.UNet2DConditionModel(
        sample_size=16,
        block_out_channels=(32, 64),
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
        layers_per_block=1,
        norm_num_groups=8,
        cross_attention_dim=_WIDTH,
        attention_head_dim=8,
    ).save_pretrained(folder / "small" / "unet")
    diffusers.AutoencoderKL(
        block_out_channels=(16, 32),
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        norm_num_groups=8,
        sample_size=32,
    ).save_pretrained(folder / "small" / "vae")
    strange = folder / "small" / "strange"
    strange.mkdir()
    (strange / "config.json").write_text('{"architectures": ["AutoTokenizer"]}')
    (strange / "model.safetensors").write_bytes((folder / "small" / "vae" / "config.json").read_bytes())
    return folder


@pytest.fixture(scope="module")
def session(models: Path) -> Iterator[Session]:
    arguments = ("--backend", "diffusers", "--port", "0", "--cpu", "--models", str(models))
    with worker_process(*arguments, cwd=models) as worker, connect(worker.url) as made:
        yield made


def local(models: Path, name: str) -> Any:
    kinds = {
        "text_encoder": transformers.CLIPTextModel,
        "text_encoder_2": transformers.CLIPTextModelWithProjection,
        "text_encoder_3": transformers.T5EncoderModel,
        "unet": diffusers.UNet2DConditionModel,
        "vae": diffusers.AutoencoderKL,
    }
    made = kinds[name].from_pretrained(models / "small" / name)
    return made.eval()


def pipeline(text_encoder: Any, unet: Any, vae: Any, kind: str) -> Any:
    made = getattr(diffusers, kind)(
        vae=vae,
        text_encoder=text_encoder,
        tokenizer=Tokenizer(),
        unet=unet,
        scheduler=diffusers.DDIMScheduler(steps_offset=1, clip_sample=False),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    made.set_progress_bar_config(disable=True)
    return made


def test_the_parts_of_a_pipelines_folder_are_listed(session: Session) -> None:
    names = {entry.name for entry in session.models()}
    assert {
        "small/text_encoder",
        "small/text_encoder_2",
        "small/text_encoder_3",
        "small/unet",
        "small/vae",
    } <= names
    assert "small/strange" not in names


@pytest.mark.parametrize("kind", ["StableDiffusionPipeline", "StableDiffusionImg2ImgPipeline"])
def test_a_pipeline_draws_the_same_with_everything_remote(session: Session, models: Path, kind: str) -> None:
    parts = ("text_encoder", "unet", "vae")
    remote = [session.model(f"small/{name}") for name in parts]
    given: dict[str, Any] = {"prompt": "a cat", "negative_prompt": "a dog", "num_inference_steps": 3}
    if kind == "StableDiffusionPipeline":
        given |= {"height": 32, "width": 32}
    else:
        picture = torch.rand(1, 3, 32, 32, generator=torch.Generator().manual_seed(2))
        given |= {"image": picture, "strength": 0.7}
    pictures = []
    for each in ([local(models, name) for name in parts], remote):
        generator = torch.Generator().manual_seed(7)
        pipe = pipeline(*each, kind=kind)
        pictures.append(pipe(**given, generator=generator, output_type="pt").images)
    assert torch.equal(*pictures)
    assert pictures[0].std() > 0.05
    assert all(each.calls > 0 for each in remote)


@pytest.mark.parametrize("name", ["text_encoder", "text_encoder_2", "text_encoder_3"])
def test_text_encoders_give_what_local_ones_give(session: Session, models: Path, name: str) -> None:
    here, there = local(models, name), session.model(f"small/{name}")
    ids = Tokenizer()(["a cat", "several dogs"]).input_ids
    with torch.no_grad():
        expected, found = (each(ids, output_hidden_states=True) for each in (here, there))
        assert torch.equal(found[0], expected[0])
        assert torch.equal(found.last_hidden_state, expected.last_hidden_state)
        assert all(map(torch.equal, found.hidden_states, expected.hidden_states))
        assert torch.equal(there(ids)[0], here(ids)[0])
    assert list(found) == list(expected.keys())
    assert there.dtype is here.dtype
    assert there.config.vocab_size == here.config.vocab_size


def test_the_methods_of_an_autoencoder_give_what_local_ones_give(session: Session, models: Path) -> None:
    here, there = local(models, "vae"), session.model("small/vae")
    picture = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(3))
    with torch.no_grad():
        expected, found = here.encode(picture).latent_dist, there.encode(picture).latent_dist
        assert torch.equal(found.mode(), expected.mode())
        drawn = [each.sample(torch.Generator().manual_seed(4)) for each in (expected, found)]
        assert torch.equal(*drawn)
        assert torch.equal(there.encode(picture, return_dict=False)[0].mean, expected.mean)
        latent = expected.mode()
        assert torch.equal(there.decode(latent).sample, here.decode(latent).sample)
        # Pipelines give one, and the network draws nothing.
        plain = here.decode(latent, return_dict=False)[0]
        for generator in (None, torch.Generator().manual_seed(5)):
            assert torch.equal(here.decode(latent, return_dict=False, generator=generator)[0], plain)
            assert torch.equal(there.decode(latent, return_dict=False, generator=generator)[0], plain)
        assert torch.equal(there(picture).sample, here(picture).sample)


def test_other_methods_are_refused_by_name(session: Session) -> None:
    vae, text_encoder = session.model("small/vae"), session.model("small/text_encoder")
    for model, name in ((vae, "enable_tiling"), (text_encoder, "encode"), (vae, "save_pretrained")):
        with pytest.raises(AttributeError, match=f"no '{name}'"):
            getattr(model, name)
    with pytest.raises(ModelFailedError, match="CLIPTextModel has no method 'decode'"):
        text_encoder.patched(None, (torch.zeros(1),), {}, method="decode")
    with pytest.raises(OffloadError, match="save_pretrained"):
        vae.patched(None, ("folder",), {}, method="save_pretrained")
