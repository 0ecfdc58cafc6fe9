"""Audio encoders at a worker: outputs bit for bit as in ComfyUI, and what cannot be had refused by name.

    PYTHON run.py COMFYUI_ROOT FOLDER

FOLDER is an empty one. Prints JSON, for test_audio_encoders.py to judge.
"""

from __future__ import annotations

import copy
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT, FOLDER = map(Path, sys.argv[1:3])
sys.path.insert(0, str(ROOT))

from comfy.cli_args import args  # noqa: E402

args.cpu = True

import torch  # noqa: E402
from safetensors.torch import save_file  # noqa: E402

from comfy_gpu_offload.comfyui.worker.backend import ComfyUIBackend  # noqa: E402

BACKEND = ComfyUIBackend(ROOT, models_dir=FOLDER, cpu=True)

# Before nodes, which puts a folder in front of the path that has a utils too.
import utils.install_util  # noqa: E402, F401

sys.path.append(str(Path(__file__).parents[1]))
import folder_paths  # noqa: E402
from comfy.audio_encoders import audio_encoders  # noqa: E402
from comfy_extras.nodes_audio_encoder import AudioEncoderEncode, AudioEncoderLoader  # noqa: E402

from comfy_gpu_offload.client.session import Session  # noqa: E402
from comfy_gpu_offload.comfyui.client import auxiliary_loader, loader  # noqa: E402
from comfy_gpu_offload.comfyui.client.remote_audio_encoder import RemoteAudioEncoder  # noqa: E402
from comfy_gpu_offload.protocol.messages import ModelRef  # noqa: E402
from comfy_gpu_offload.server.handler import Handler  # noqa: E402
from comfy_gpu_offload.transport.loopback import LoopbackTransport  # noqa: E402

NAMES = ("wav2vec2-base", "wav2vec2-large", "whisper")


def shrink() -> None:
    """Have ComfyUI build encoders of few layers: it tells them apart by their width and their keys."""
    wav2vec2, whisper = audio_encoders.Wav2Vec2Model, audio_encoders.WhisperLargeV3
    audio_encoders.Wav2Vec2Model = lambda **config: wav2vec2(**{**config, "num_layers": 2})
    audio_encoders.WhisperLargeV3 = lambda **config: whisper(
        **{**config, "n_audio_state": 64, "n_audio_head": 4, "n_audio_layer": 2}
    )


def network(name: str) -> torch.nn.Module:
    config: dict[str, Any] = {"model_type": "whisper3"}
    if name.startswith("wav2vec2"):
        large = name.endswith("large")
        config = {"model_type": "wav2vec2", "embed_dim": 1024 if large else 768, "num_heads": 16 if large else 12}
        config |= dict.fromkeys(("conv_norm", "conv_bias", "do_normalize", "do_stable_layer_norm"), large)
    made: torch.nn.Module = audio_encoders.AudioEncoderModel(config).model
    return made


def write() -> None:
    folder = FOLDER / "audio_encoders"
    folder.mkdir()
    for name in NAMES:
        generator = torch.Generator().manual_seed(len(name))
        weights = {}
        for key, like in network(name).state_dict().items():
            values = torch.randn(like.shape, generator=generator)
            gain = like.dim() == 1 and key.endswith("weight")
            made = like if "mel_spectrogram" in key else (1 + 0.1 * values if gain else 0.05 * values)
            weights[f"model.{key}" if name == "whisper" else key] = made.to(torch.float16).contiguous()
        save_file(weights, folder / f"{name}.safetensors")
    save_file({"weight": torch.zeros(2)}, folder / "none.safetensors")
    folder_paths.add_model_folder_path("audio_encoders", str(folder), True)


def stock(name: str) -> Any:
    return AudioEncoderLoader.execute(f"{name}.safetensors").args[0]


def remote(name: str) -> RemoteAudioEncoder:
    loaded: RemoteAudioEncoder = auxiliary_loader.load_remote_audio_encoder(f"{name}.safetensors")
    return loaded


def here(name: str) -> Any:
    return auxiliary_loader.load_local_audio_encoder(f"{name}.safetensors")


def sound(channels: int, count: int, seed: int) -> torch.Tensor:
    return torch.rand((1, channels, count), generator=torch.Generator().manual_seed(seed)) * 2 - 1


def encoded(encoder: Any, waveform: torch.Tensor, rate: int) -> Any:
    with torch.inference_mode():
        return AudioEncoderEncode.execute(encoder, {"waveform": waveform, "sample_rate": rate}).args[0]


def same(one: Any, other: Any) -> bool:
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(one[key], other[key]) for key in one)
    if isinstance(one, list | tuple):
        return type(one) is type(other) and len(one) == len(other) and all(map(same, one, other))
    if not isinstance(one, torch.Tensor):
        return type(one) is type(other) and bool(one == other)
    facts = [(each.shape, each.dtype, each.device, each.stride()) for each in (one, other)]
    return facts[0] == facts[1] and torch.equal(one, other)


def equality() -> dict[str, Any]:
    found = {}
    for name in NAMES:
        encoders = (stock(name), remote(name), here(name))
        for channels, count, rate in ((2, 22050, 44100), (1, 8000, 16000)):
            results = [encoded(each, sound(channels, count, 3), rate) for each in encoders]
            spread = float(results[0]["encoded_audio"].std())
            found[f"{name}, {rate}"] = [same(results[0], results[1]), same(results[0], results[2]), spread]
    return found


def error_of(use: Callable[[], Any]) -> str:
    try:
        use()
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return "no error"


def after(change: Callable[[Any], Any]) -> str:
    encoder = remote("whisper")
    change(encoder)
    return error_of(lambda: encoded(encoder, sound(1, 800, 4), 16000))


def another_rate(encoder: Any) -> None:
    encoder.model_sample_rate = 8000


def another_network(encoder: Any) -> None:
    encoder.model = torch.nn.Identity()


def object_patch(encoder: Any) -> None:
    encoder.patcher.add_object_patch("encoder", torch.nn.Identity())


def refusals() -> dict[str, str]:
    """Return by a change of an encoder, or a use of it, the error that it ends in."""
    encoder = remote("whisper")
    found = {change.__name__: after(change) for change in (another_rate, another_network, object_patch)}
    found["copied"] = error_of(lambda: copy.deepcopy(encoder))
    found["saved"] = error_of(encoder.get_sd)
    found["loaded"] = error_of(lambda: encoder.load_sd({}))
    found["network"] = error_of(lambda: encoder.model(sound(1, 800, 4)))
    found["converted"] = error_of(encoder.model.half)
    found["no encoder"] = error_of(lambda: remote("none"))
    found["not there"] = error_of(lambda: remote("missing"))
    return found


if __name__ == "__main__":
    shrink()
    write()
    SESSION = Session(LoopbackTransport(Handler(BACKEND)))
    loader.remote_module = lambda ref: (SESSION, SESSION.module(ModelRef(name=ref.name)))
    print(
        json.dumps(
            {
                "equal": equality(),
                "refused": refusals(),
                "listed": sorted(each.name for each in SESSION.models() if each.folder == "audio_encoders"),
            }
        )
    )
