"""Write small diffusion models with random weights, as files that ComfyUI detects.

    PYTHON build_models.py COMFYUI_ROOT MODELS_FOLDER

Run in ComfyUI's own interpreter: the modules are its own, so that names and shapes are right for its version.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

ROOT, FOLDER = sys.argv[1:3]
sys.path.insert(0, ROOT)

from comfy.cli_args import args  # noqa: E402

args.cpu = True

import comfy.ops  # noqa: E402
import comfy.utils  # noqa: E402
import torch  # noqa: E402
from comfy.cldm.cldm import ControlNet  # noqa: E402
from comfy.cldm.mmdit import ControlNet as ControlMMDiT  # noqa: E402
from comfy.ldm.lightricks.model import LTXVModel  # noqa: E402
from comfy.ldm.modules.diffusionmodules.mmdit import MMDiT  # noqa: E402
from comfy.ldm.modules.diffusionmodules.openaimodel import UNetModel  # noqa: E402
from comfy.ldm.wan.model import WanModel  # noqa: E402
from comfy.t2i_adapter.adapter import Adapter_light  # noqa: E402
from comfy.taesd.taesd import TAESD  # noqa: E402
from safetensors.torch import save_file  # noqa: E402
from spandrel.architectures.Compact import Compact  # noqa: E402

try:
    from comfy.ldm.lightricks.av_model import LTXAVModel
except ImportError:  # an older release
    LTXAVModel = None

OPERATIONS = comfy.ops.disable_weight_init
Weights = dict[str, torch.Tensor]


def mmdit() -> torch.nn.Module:
    """Return SD3 with two blocks; ComfyUI reads the depth off the width."""
    return MMDiT(
        input_size=None,
        in_channels=16,
        depth=2,
        num_blocks=2,
        adm_in_channels=64,
        context_embedder_config={
            "target": "torch.nn.Linear",
            "params": {"in_features": 96, "out_features": 128},
        },
        num_patches=64,
        pos_embed_max_size=8,
        pos_embed_scaling_factor=None,
        qk_norm="rms",
        dtype=torch.float32,
        device="cpu",
        operations=OPERATIONS,
    )


def wan() -> torch.nn.Module:
    return WanModel(
        dim=128,
        ffn_dim=256,
        num_heads=1,
        num_layers=2,
        device="cpu",
        dtype=torch.float32,
        operations=OPERATIONS,
    )


def ltxv() -> torch.nn.Module:
    """Return LTXV, whose number of heads is fixed at 32."""
    return LTXVModel(
        cross_attention_dim=256,
        attention_head_dim=8,
        num_layers=2,
        dtype=torch.float32,
        device="cpu",
        operations=OPERATIONS,
    )


# Of one layer. ComfyUI reads most of it from the file's metadata.
LTXAV = {
    "cross_attention_dim": 256,
    "audio_cross_attention_dim": 128,
    "attention_head_dim": 8,
    "audio_attention_head_dim": 4,
    "caption_channels": 64,
    "num_layers": 1,
    "connector_attention_head_dim": 8,
    "connector_num_attention_heads": 8,
    "connector_num_layers": 1,
}


def ltxav() -> torch.nn.Module:
    """Return a model of audio with video, whose latent has two parts."""
    return LTXAVModel(dtype=torch.float32, device="cpu", operations=OPERATIONS, **LTXAV)


def unet(blocks: int = 1, channels: int = 4) -> torch.nn.Module:
    """Return SD1.5 with one level and one block in it, or so many; ComfyUI knows SD1.5 by its width.

    With 9 channels it is one for inpainting.
    """
    further = [0] * (blocks - 1)
    return _sd15(channels, [blocks], [1], [1, *further], [1, 1, *further])


def two_levels() -> torch.nn.Module:
    """Return SD1.5 with two levels: the second is half as large and twice as wide, as FreeU looks for."""
    return _sd15(4, [1, 1], [1, 2], [0, 1], [0, 0, 1, 1])


def _sd15(
    channels: int, blocks: list[int], widths: list[int], depth: list[int], depth_output: list[int]
) -> torch.nn.Module:
    return UNetModel(
        image_size=32,
        in_channels=channels,
        model_channels=320,
        out_channels=4,
        num_res_blocks=blocks,
        channel_mult=widths,
        transformer_depth=depth,
        transformer_depth_output=depth_output,
        transformer_depth_middle=1,
        context_dim=768,
        num_heads=8,
        use_spatial_transformer=True,
        legacy=False,
        dtype=torch.float32,
        device="cpu",
        operations=OPERATIONS,
    )


def control_net() -> torch.nn.Module:
    """Return a ControlNet for that UNet, in the layout of the first ControlNets."""
    return ControlNet(
        image_size=32,
        in_channels=4,
        model_channels=320,
        hint_channels=3,
        num_res_blocks=[1],
        channel_mult=[1],
        transformer_depth=[1],
        transformer_depth_middle=1,
        context_dim=768,
        num_heads=8,
        use_spatial_transformer=True,
        legacy=False,
        dtype=torch.float32,
        device="cpu",
        operations=OPERATIONS,
    )


def control_difference() -> Weights:
    """Return a ControlNet made of differences to a model's weights, in the layout of the first ones."""
    return {"difference": torch.zeros(1), **weights(control_net(), 19, torch.float16, "control_model.")}


def without(made: Weights, key: str) -> Weights:
    return {name: tensor for name, tensor in made.items() if name != key}


def control_lora() -> Weights:
    """Return a Control-LoRA of that, which takes the UNet's own weights and changes one layer of them."""
    own = ("zero_convs.", "input_hint_block.", "middle_block_out.")
    made = weights(control_net(), 15, torch.float16)
    draw = drawn(16)
    layer = "input_blocks.1.1.transformer_blocks.0.attn1.to_q"
    return {
        **{name: tensor for name, tensor in made.items() if name.startswith(own)},
        f"{layer}.up": draw(320, _RANK),
        f"{layer}.down": draw(_RANK, 320),
        "lora_controlnet": torch.tensor([1.0]),
    }


def control_mmdit() -> torch.nn.Module:
    """Return a ControlNet for that MMDiT, with one block; its picture goes through a VAE."""
    return ControlMMDiT(
        num_blocks=1,
        control_latent_channels=16,
        input_size=None,
        in_channels=16,
        depth=2,
        adm_in_channels=64,
        context_embedder_config={
            "target": "torch.nn.Linear",
            "params": {"in_features": 96, "out_features": 128},
        },
        num_patches=64,
        pos_embed_max_size=8,
        pos_embed_scaling_factor=None,
        qk_norm="rms",
        dtype=torch.float32,
        device="cpu",
        operations=OPERATIONS,
    )


def by_diffusers_names(weights: Weights) -> Weights:
    """Return an SD3 ControlNet's weights as ComfyUI takes them from a file."""
    made: Weights = {}
    known: set[str] = set()
    for name, place in comfy.utils.mmdit_to_diffusers({"depth": 2, "num_blocks": 1}).items():
        key, offset, function = (place, None, None) if isinstance(place, str) else (*place, None)[:3]
        if key in weights:
            known.add(key)
            part = weights[key] if offset is None else weights[key].narrow(*offset)
            made[name] = (part if function is None else function(part)).contiguous()
    return made | {key: tensor for key, tensor in weights.items() if key not in known}


def adapter_net() -> torch.nn.Module:
    """Return a T2I adapter for SD1.5; its features reach a UNet's third block and later ones."""
    return Adapter_light(cin=192, channels=[320, 640, 1280, 1280], nums_rb=4)


def vae() -> Weights:
    """Return a small VAE for 16 channels."""
    made = TAESD(latent_channels=16)
    return {name: tensor.contiguous() for name, tensor in random_weights(made, 13)}


def upscaler() -> Weights:
    """Return an upscale model with small weights: ComfyUI cuts its pictures off at 0 and 1."""
    torch.manual_seed(23)
    return {
        key: value.contiguous() for key, value in Compact(num_feat=8, num_conv=2, upscale=2).state_dict().items()
    }


def random_weights(model: torch.nn.Module, seed: int) -> Iterator[tuple[str, torch.Tensor]]:
    """Draw weights that keep the size of activations: results are finite, and depend on all of them."""
    generator = torch.Generator().manual_seed(seed)
    for name, tensor in model.state_dict().items():
        drawn = torch.randn(tensor.shape, generator=generator)
        if name.endswith("bias"):
            yield name, drawn * 0.02
        elif tensor.ndim < 2:
            yield name, 1 + drawn * 0.1
        elif "modulation" in name or "scale_shift_table" in name or name.endswith("pos_embed"):
            yield name, drawn * 0.1
        else:
            yield name, drawn * tensor[0].numel() ** -0.5


def weights(model: torch.nn.Module, seed: int, dtype: torch.dtype, prefix: str = "") -> Weights:
    return {prefix + name: tensor.to(dtype).contiguous() for name, tensor in random_weights(model, seed)}


def quantised(made: Weights) -> Weights:
    """Return the same with the blocks' matrices in fp8, each with a scale, in a layout that both releases know."""
    files: Weights = {"scaled_fp8": torch.zeros(0, dtype=torch.float8_e4m3fn)}
    for name, tensor in made.items():
        if name.startswith("blocks.") and name.endswith(".weight") and tensor.ndim == 2:
            scale = tensor.float().abs().max() / torch.finfo(torch.float8_e4m3fn).max
            files[name] = (tensor.float() / scale).to(torch.float8_e4m3fn)
            files[f"{name.removesuffix('.weight')}.scale_weight"] = scale
        else:
            files[name] = tensor
    return files


def lora(width: int, key: str) -> Weights:
    """Return a LoRA of rank 2 on one layer."""
    generator = torch.Generator().manual_seed(7)
    return {
        f"{key}.lora_down.weight": torch.randn(2, width, generator=generator),
        f"{key}.lora_up.weight": torch.randn(width, 2, generator=generator),
        f"{key}.alpha": torch.tensor(2.0),
    }


# Of the MMDiT: their weights are [out, in].
_LAYERS = {
    "joint_blocks.0.x_block.attn.proj": (128, 128),
    "joint_blocks.1.x_block.mlp.fc1": (512, 128),
    "joint_blocks.0.context_block.mlp.fc2": (128, 512),
}
_RANK = 4


def drawn(seed: int) -> Callable[..., torch.Tensor]:
    """Return what draws random weights of any shape, large enough to change a picture."""
    generator = torch.Generator().manual_seed(seed)
    return lambda *shape: (torch.randn(shape, generator=generator) * 0.2).half()


def adapter_of(kind: str, out: int, size: int, seed: int) -> Weights:
    """Return one layer's weights in a file of that kind, by the ends of their names."""
    draw = drawn(seed)
    lora_weights = {"lora_up.weight": draw(out, _RANK), "lora_down.weight": draw(_RANK, size)}
    return {
        "lora": {**lora_weights, "alpha": torch.tensor(3.0)},
        "dora": {**lora_weights, "dora_scale": draw(out, 1) + 1},
        "loha": {
            "hada_w1_a": draw(out, _RANK),
            "hada_w1_b": draw(_RANK, size),
            "hada_w2_a": draw(out, _RANK),
            "hada_w2_b": draw(_RANK, size),
            "alpha": torch.tensor(4.0),
        },
        "lokr": {"lokr_w1": draw(4, 4), "lokr_w2_a": draw(out // 4, _RANK), "lokr_w2_b": draw(_RANK, size // 4)},
        "oft": {"oft_blocks": draw(out // 8, 8, 8)},
        "boft": {"oft_blocks": draw(2, out // 8, 8, 8), "alpha": torch.tensor(0.1)},
        "glora": {
            "a1.weight": draw(size, _RANK),
            "a2.weight": draw(_RANK, size),
            "b1.weight": draw(out, _RANK),
            "b2.weight": draw(_RANK, size),
        },
        "diff": {"diff": draw(out, size) * 0.3, "diff_b": draw(out)},
        "set": {"set_weight": draw(out, size)},
    }[kind]


def adapter(kind: str, seed: int) -> Weights:
    """Return a file of that kind for the MMDiT."""
    return {
        f"diffusion_model.{layer}.{name}": tensor
        for number, (layer, (out, size)) in enumerate(_LAYERS.items())
        for name, tensor in adapter_of(kind, out, size, seed + number).items()
    }


def parts_of_layers() -> Weights:
    """Return, by diffusers' names, parts of a weight (queries, values), and a weight with its halves swapped."""
    layers = {
        "transformer_blocks.0.attn.to_q": 128,
        "transformer_blocks.0.attn.to_v": 128,
        "norm_out.linear": 256,
    }
    draw = drawn(70)
    return {
        f"transformer.{layer}.{name}": tensor
        for layer, out in layers.items()
        for name, tensor in {"lora_A.weight": draw(_RANK, 128), "lora_B.weight": draw(out, _RANK)}.items()
    }


def convolutions() -> Weights:
    """Return a LoRA with a core (LoCon) of a convolution of the UNet."""
    draw = drawn(80)
    return {
        "lora_unet_input_blocks_1_0_in_layers_2.lora_up.weight": draw(320, _RANK, 1, 1),
        "lora_unet_input_blocks_1_0_in_layers_2.lora_down.weight": draw(_RANK, 320, 1, 1),
        "lora_unet_input_blocks_1_0_in_layers_2.lora_mid.weight": draw(_RANK, _RANK, 3, 3),
        "lora_unet_input_blocks_1_0_out_layers_3.lora_up.weight": draw(320, _RANK, 1, 1),
        "lora_unet_input_blocks_1_0_out_layers_3.lora_down.weight": draw(_RANK, 320, 3, 3),
    }


def adapters() -> dict[str, Weights]:
    kinds = ("lora", "dora", "loha", "lokr", "oft", "boft", "glora", "diff", "set")
    files = {f"loras/kind-{kind}.safetensors": adapter(kind, 20 + 5 * n) for n, kind in enumerate(kinds)}
    return files | {
        "loras/kind-lora-2.safetensors": adapter("lora", 90),
        "loras/second-a.safetensors": adapter("lora", 100),
        "loras/second-b.safetensors": adapter("lora", 110),
        "loras/parts.safetensors": parts_of_layers(),
        "loras/locon.safetensors": convolutions(),
        "loras/partly.safetensors": adapter("lora", 120)
        | {
            f"diffusion_model.joint_blocks.1.x_block.attn.proj.{name}": tensor
            for name, tensor in adapter_of("lora", 96, 64, 96).items()
        },
        "loras/misfit.safetensors": {
            f"diffusion_model.{next(iter(_LAYERS))}.{name}": tensor
            for name, tensor in adapter_of("lora", 96, 64, 95).items()
        },
    }


def main() -> None:
    folder = Path(FOLDER)
    sd15 = unet()
    files: dict[str, Weights] = {
        "diffusion_models/mmdit.safetensors": weights(mmdit(), 1, torch.float32),
        "diffusion_models/mmdit-bf16.safetensors": weights(mmdit(), 1, torch.bfloat16),
        "diffusion_models/mmdit-fp16.safetensors": weights(mmdit(), 1, torch.float16),
        "diffusion_models/mmdit-other.safetensors": weights(mmdit(), 2, torch.float32),
        "diffusion_models/wan.safetensors": weights(wan(), 3, torch.bfloat16),
        "diffusion_models/wan-other.safetensors": weights(wan(), 18, torch.bfloat16),
        "diffusion_models/wan-quantised.safetensors": quantised(weights(wan(), 3, torch.bfloat16)),
        "diffusion_models/ltxv.safetensors": weights(ltxv(), 4, torch.bfloat16),
        "diffusion_models/video/unet.safetensors": weights(sd15, 5, torch.float16),
        "checkpoints/sd15.safetensors": weights(sd15, 6, torch.float16, "model.diffusion_model."),
        "diffusion_models/inpaint.safetensors": weights(unet(channels=9), 17, torch.float16),
        "diffusion_models/three-blocks.safetensors": weights(unet(2), 10, torch.float16),
        "diffusion_models/two-levels.safetensors": weights(two_levels(), 18, torch.float16),
        "controlnet/edges.safetensors": weights(control_net(), 9, torch.float16),
        "controlnet/depth.safetensors": weights(control_net(), 14, torch.float16),
        "controlnet/lora.safetensors": control_lora(),
        "controlnet/diff.safetensors": control_difference(),
        "controlnet/partial.safetensors": without(weights(control_net(), 20, torch.float16), "zero_convs.1.0.bias"),
        "controlnet/sd3.safetensors": by_diffusers_names(weights(control_mmdit(), 11, torch.float32)),
        "controlnet/adapter.safetensors": weights(adapter_net(), 12, torch.float16),
        "vae/small.safetensors": vae(),
        "upscale_models/twice.safetensors": upscaler(),
        "loras/mmdit-lora.safetensors": lora(128, "diffusion_model.joint_blocks.0.x_block.attn.proj"),
    }
    files |= adapters()
    metadata: dict[str, dict[str, str]] = {}
    if LTXAVModel is not None:
        name = "diffusion_models/ltxav.safetensors"
        files[name] = weights(ltxav(), 8, torch.bfloat16)
        metadata[name] = {"config": json.dumps({"transformer": LTXAV})}
    for name, tensors in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        save_file(tensors, folder / name, metadata.get(name))


if __name__ == "__main__":
    main()
