"""Text encoders of every family, with random weights and small: ComfyUI's own classes with other sizes.

ComfyUI's files have no sizes in them, which are in its code and its configuration files; so these are changed here,
for the whole process: the worker, the client and ComfyUI's own loaders then all build the small ones.
"""

from __future__ import annotations

import importlib
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import comfy.sd1_clip
import comfy.sdxl_clip
import comfy.text_encoders.ace
import comfy.text_encoders.hidream
import comfy.text_encoders.hunyuan_video
import comfy.text_encoders.llama
import comfy.text_encoders.lumina2
import comfy.text_encoders.qwen_image
import comfy.text_encoders.qwen_vl
import comfy.text_encoders.sd3_clip
import comfy.text_encoders.wan
import folder_paths
import torch
from safetensors.torch import save_file
from tokenizers import Regex, Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Split
from transformers import T5TokenizerFast

# Later releases know T5-XXL by its inner width, earlier ones by its width.
LATER = hasattr(comfy.text_encoders.llama, "BaseGenerate")
if LATER:
    importlib.import_module("comfy.text_encoders.minimax_music")
_WIDE = {"d_ff": 32, "num_heads": 2, "d_kv": 8}
_T5 = {"d_model": 64, "num_heads": 2, "d_kv": 8} if LATER else _WIDE
# By the name of a configuration file, what is changed in it.
_CONFIGS: dict[str, dict[str, Any]] = {
    "sd1_clip_config.json": {"num_hidden_layers": 4, "intermediate_size": 64},
    "clip_config_bigg.json": {"hidden_size": 64, "intermediate_size": 64, "num_attention_heads": 2},
    "t5_config_xxl.json": _T5,
    "umt5_config_xxl.json": {**_T5, "vocab_size": 32128},
    "umt5_config_base.json": {"d_ff": 32, "num_heads": 2, "d_kv": 8, "num_layers": 3, "vocab_size": 32128},
}
_SMALL = {"hidden_size": 64, "intermediate_size": 64, "num_attention_heads": 1, "num_key_value_heads": 1}
# By the name of a dataclass in `comfy.text_encoders.llama`, what is changed in it.
_LANGUAGE_MODELS: dict[str, dict[str, Any]] = {
    "Llama2Config": _SMALL,
    # ComfyUI knows it by the width of its keys.
    "Qwen25_7BVLI_Config": _SMALL | {"num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 4},
    "Gemma2_2B_Config": _SMALL | {"num_hidden_layers": 3, "vocab_size": 32128},
    "Qwen3_06BConfig": _SMALL | {"hidden_size": 1024, "num_hidden_layers": 2},
    "Gemma3_12B_Config": _SMALL | {"num_hidden_layers": 3},
    # ComfyUI knows these two by their widths.
    "Qwen3_06B_ACE15_Config": _SMALL | {"hidden_size": 1024, "num_hidden_layers": 2},
    "Qwen3_2B_ACE15_lm_Config": _SMALL | {"hidden_size": 2048, "num_hidden_layers": 2, "vocab_size": 1000},
}
_SMALL_VISION = {"hidden_size": 64, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
_MUSIC = {
    "hidden_size": 64,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "head_dim": 16,
    "decoder_num_heads": 2,
    "decoder_intermediate_size": 64,
    "decoder_num_layers": 1,
}
# What a file has of this encoder in one of two forms.
_PRUNED = ("embed_tokens_prefill", "embed_tokens_audio", "lm_head_pruned")
_VISION = {"hidden_size": 64, "intermediate_size": 64, "num_layers": 2, "num_heads": 2}


def make_small() -> None:
    """Change the sizes of ComfyUI's text encoders in this process."""
    load = json.load

    def load_small(file: Any, *args: Any, **kwargs: Any) -> Any:
        found = load(file, *args, **kwargs)
        name = Path(getattr(file, "name", "")).name
        return {**found, **_CONFIGS[name]} if name in _CONFIGS else found

    json.load = load_small
    for name, changes in _LANGUAGE_MODELS.items():
        kind = getattr(comfy.text_encoders.llama, name, None)
        if kind is not None:
            for field, value in changes.items():
                setattr(kind, field, value)
            kind.__init__.__defaults__ = tuple(
                changes.get(field, default)
                for field, default in zip(
                    kind.__init__.__code__.co_varnames[1:], kind.__init__.__defaults__, strict=False
                )
            )
    module = comfy.text_encoders.qwen_vl
    whole = module.Qwen2VLVisionTransformer

    class Small(whole):
        def __init__(self, **kwargs: Any) -> None:
            super().__init__(**{**kwargs, **_VISION})

    module.Qwen2VLVisionTransformer = Small
    comfy.text_encoders.hunyuan_video.LlamaTokenizerFast = _AnotherTokenizer
    if LATER:
        comfy.text_encoders.llama.GEMMA3_VISION_CONFIG.update(_SMALL_VISION)
        comfy.text_encoders.minimax_music.MODEL_CONFIG.update(_MUSIC)


class _AnotherTokenizer:
    """T5's tokenizer in the place of Llama's, whose vocabulary some checkouts are without."""

    @staticmethod
    def from_pretrained(_: str, **options: Any) -> Any:
        folder = Path(comfy.sd1_clip.__file__).parent / "text_encoders" / "t5_tokenizer"
        return T5TokenizerFast.from_pretrained(folder, **options)


def _randomised(model: torch.nn.Module, seed: int, dtype: torch.dtype) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    made = {}
    for key, tensor in model.transformer.state_dict().items():
        if not tensor.is_floating_point():
            made[key] = tensor.contiguous()
            continue
        noise = torch.randn(tensor.shape, generator=generator) * (0.3 / max(1, tensor.shape[-1]) ** 0.25)
        is_norm = tensor.dim() == 1 and key.endswith("weight")
        made[key] = (noise * 0.1 + 1 if is_norm else noise).to(dtype)
    return made


def _spiece() -> torch.Tensor:
    path = Path(comfy.sd1_clip.__file__).parent / "text_encoders" / "t5_pile_tokenizer" / "tokenizer.model"
    return torch.frombuffer(bytearray(path.read_bytes()), dtype=torch.uint8)


def _clip_l() -> Any:
    return comfy.sd1_clip.SDClipModel(device="cpu", dtype=torch.float16)


def _wide_t5() -> Any:
    """Return a T5-XXL of its real width, as composites that join it with CLIP want it; from then on all are so."""
    _CONFIGS["t5_config_xxl.json"] = _WIDE
    return comfy.text_encoders.sd3_clip.T5XXLModel(device="cpu", dtype=torch.bfloat16)


def _language_model(name: str, **config: Any) -> Callable[[], Any]:
    def make() -> Any:
        return comfy.sd1_clip.SDClipModel(
            device="cpu",
            dtype=torch.float16,
            textmodel_json_config=config,
            special_tokens={"start": 1, "pad": 0},
            layer_norm_hidden_state=False,
            model_class=getattr(comfy.text_encoders.llama, name),
        )

    return make


def _ltxav_projection() -> Any:
    """Return what LTXAV has besides a Gemma 3: a projection of all its layers, of a file of its own."""
    layers = comfy.text_encoders.llama.Gemma3_12B_Config.num_hidden_layers + 1
    projection = torch.nn.Linear(64 * layers, 48, bias=False, dtype=torch.bfloat16)
    return _Whole(torch.nn.ModuleDict({"text_embedding_projection": projection}))


class _Whole:
    """A module in the place of an `SDClipModel`, all of whose weights are in the file."""

    def __init__(self, module: torch.nn.Module) -> None:
        self.transformer = module


def _music() -> Any:
    model = comfy.text_encoders.minimax_music.MiniMaxMusic3TEModel()
    for name in _PRUNED:
        delattr(model.model, name)
    return _Whole(model)


def _music_tokenizer() -> torch.Tensor:
    """Return a tokenizer of single letters, with the numbers that MiniMax Music 3 asks for."""
    letters = {chr(code): code for code in range(32, 127)}
    numbers = comfy.ldm.minimax_music.prompt.SPECIAL_TOKEN_IDS
    tokenizer = Tokenizer(WordLevel({**letters, **numbers, "<unk>": 1}, unk_token="<unk>"))
    special = "|".join(map(re.escape, numbers))
    tokenizer.pre_tokenizer = Split(Regex(f"{special}|."), "isolated")
    return torch.frombuffer(bytearray(tokenizer.to_str().encode()), dtype=torch.uint8)


def _scaled(weights: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Return weights as files named fp8_scaled have them: those of linear layers in float8, with scales."""
    made = {"scaled_fp8": torch.tensor([], dtype=torch.float8_e4m3fn)}
    for key, weight in weights.items():
        made[key] = weight
        if weight.dim() == 2 and not _TABLE.search(key):
            scale = weight.float().abs().max() / 400
            made[key] = (weight.float() / scale).to(torch.float8_e4m3fn)
            made[key.removesuffix("weight") + "scale_weight"] = scale
    return made


_TABLE = re.compile(r"embed_tokens|shared|relative_attention_bias")
_BUILDERS: dict[str, Callable[[], Any]] = {
    "clip_l": _clip_l,
    "clip_l_other": _clip_l,
    "clip_g": lambda: comfy.sdxl_clip.SDXLClipG(device="cpu", dtype=torch.float16),
    "t5": lambda: comfy.text_encoders.sd3_clip.T5XXLModel(device="cpu", dtype=torch.bfloat16),
    "umt5": lambda: comfy.text_encoders.wan.UMT5XXlModel(device="cpu", dtype=torch.float16),
    "t5_wide": _wide_t5,
    "llama": _language_model("Llama2"),
    "llama_hidream": _language_model("Llama2", vocab_size=128256),
    "gemma": _language_model("Gemma2_2B"),
    "qwen_vl": _language_model("Qwen25_7BVLI"),
    "umt5_scaled": lambda: comfy.text_encoders.wan.UMT5XXlModel(device="cpu", dtype=torch.float16),
    "qwen_vl_scaled": _language_model("Qwen25_7BVLI"),
    "umt5_base": lambda: comfy.text_encoders.ace.UMT5BaseModel(device="cpu", dtype=torch.float16),
}
if LATER:
    _BUILDERS |= {
        "qwen3": _language_model("Qwen3_06B"),
        "gemma3": _language_model("Gemma3_12B"),
        "ltxav_projection": _ltxav_projection,
        "qwen3_ace": _language_model("Qwen3_06B_ACE15"),
        "qwen3_ace_lm": _language_model("Qwen3_2B_ACE15_lm"),
        "music": _music,
    }
_WITH_SPIECE = {"umt5", "umt5_scaled", "umt5_base", "gemma", "gemma3"}


def write(folder: Path, *names: str) -> None:
    """Write text encoders into ComfyUI's folder of them, by their names here."""
    target = folder / "text_encoders"
    target.mkdir(parents=True, exist_ok=True)
    for number, name in enumerate(names):
        model = _BUILDERS[name]()
        dtype = next(each.dtype for each in model.transformer.parameters())
        weights = _randomised(model, number + 1, dtype)
        if name.endswith("_scaled"):
            weights = _scaled(weights)
        if name == "music":
            weights["tokenizer_json"] = _music_tokenizer()
        if name in _WITH_SPIECE:
            weights["spiece_model"] = _spiece()
        save_file(weights, target / f"{name}.safetensors")
    folder_paths.add_model_folder_path("text_encoders", str(target), is_default=True)
