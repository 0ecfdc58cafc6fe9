"""VAEs at a worker: each method bit for bit as in ComfyUI, and each change of a VAE made or refused by name.

    PYTHON run.py COMFYUI_ROOT FOLDER [ARGUMENT…]

FOLDER is an empty one; ARGUMENTs are ComfyUI's, for both ends (``--bf16-vae``). Prints JSON, for test_vaes.py to
judge.
"""

from __future__ import annotations

import contextlib
import copy
import importlib
import json
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT, FOLDER = map(Path, sys.argv[1:3])
sys.path.insert(0, str(ROOT))

from comfy.cli_args import args  # noqa: E402

args.cpu = True
for argument in sys.argv[3:]:
    setattr(args, argument.lstrip("-").replace("-", "_"), True)

import numpy as np  # noqa: E402
import torch  # noqa: E402
from PIL import Image  # noqa: E402
from safetensors.torch import load_file, save_file  # noqa: E402

from comfy_gpu_offload.comfyui.worker.backend import ComfyUIBackend  # noqa: E402

BACKEND = ComfyUIBackend(ROOT, models_dir=FOLDER, cpu=True)

# Before nodes, which puts a folder in front of the path that has a utils too.
import utils.install_util  # noqa: E402, F401

sys.path.append(str(Path(__file__).parents[1]))
import build_models  # noqa: E402
import comfy.sd  # noqa: E402
import comfy.utils  # noqa: E402
import folder_paths  # noqa: E402
import nodes  # noqa: E402
import small_vaes  # noqa: E402

from comfy_gpu_offload.client.session import Session, SessionOptions  # noqa: E402
from comfy_gpu_offload.comfyui.client.remote_vae import RemoteVae  # noqa: E402
from comfy_gpu_offload.protocol.messages import ModelRef  # noqa: E402
from comfy_gpu_offload.server.handler import Handler  # noqa: E402
from comfy_gpu_offload.transport.loopback import LoopbackTransport  # noqa: E402

small_vaes.shrink()
small_vaes.write(FOLDER)
for folder in ("vae", "vae_approx"):
    folder_paths.add_model_folder_path(folder, str(FOLDER / folder), True)

SESSION = Session(LoopbackTransport(Handler(BACKEND)))
# Height and width are odd: the crop takes some of them.
_PICTURE = (2, 70, 61, 3)
_VIDEO = (9, 70, 61, 3)
LATENTS = {
    "sd15": (2, 4, 9, 8),
    "flux": (1, 16, 9, 8),
    "wan21": (1, 16, 3, 9, 8),
    "wan22": (1, 48, 2, 5, 4),
    "ltxv": (1, 128, 3, 3, 2),
    "oobleck": (1, 64, 12),
    "taesd": (2, 4, 9, 8),
}
PIXELS = {
    "sd15": _PICTURE,
    "flux": _PICTURE,
    "wan21": _VIDEO,
    "wan22": _VIDEO,
    "ltxv": (9, 70, 70, 3),
    "oobleck": (1, 9000, 2),
    "taesd": _PICTURE,
}
_TILES = {
    "oobleck": {"tile_x": 8, "tile_y": 8, "overlap": 2},
    "wan21": {"tile_x": 6, "tile_y": 6, "overlap": 2, "tile_t": 2, "overlap_t": 1},
    "wan22": {"tile_x": 4, "tile_y": 4, "overlap": 1, "tile_t": 2, "overlap_t": 1},
    "ltxv": {"tile_x": 2, "tile_y": 2, "overlap": 1, "tile_t": 2, "overlap_t": 1},
}
_ENCODING_TILES = {
    "oobleck": {"tile_x": 4096, "tile_y": 4096, "overlap": 2048},
    "wan21": {"tile_x": 48, "tile_y": 48, "overlap": 16, "tile_t": 8, "overlap_t": 4},
    "wan22": {"tile_x": 48, "tile_y": 48, "overlap": 16, "tile_t": 8, "overlap_t": 4},
    "ltxv": {"tile_x": 64, "tile_y": 64, "overlap": 32, "tile_t": 8, "overlap_t": 4},
}


def noise(shape: tuple[int, ...], seed: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def pixels(shape: tuple[int, ...], seed: int) -> torch.Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed))


def file_of(name: str) -> str:
    return name if name == "taesd" else f"{name}.safetensors"


def stock(name: str) -> Any:
    return nodes.VAELoader().load_vae(file_of(name))[0]


def remote(name: str, **options: Any) -> RemoteVae:
    return RemoteVae(SESSION.module(ModelRef(name=f"vae:{file_of(name)}")), **options)


def same(one: torch.Tensor, other: torch.Tensor) -> bool:
    facts = [(each.shape, each.dtype, each.device, each.stride()) for each in (one, other)]
    return facts[0] == facts[1] and torch.equal(one, other)


def calls(name: str) -> dict[str, Callable[[Any], torch.Tensor]]:
    """Return the calls of a VAE that nodes make."""
    latent, picture = noise(LATENTS[name], 1), pixels(PIXELS[name], 2)
    tiles = _TILES.get(name, {"tile_x": 6, "tile_y": 6, "overlap": 2})
    encoding = _ENCODING_TILES.get(name, {"tile_x": 48, "tile_y": 48, "overlap": 16})
    return {
        "decode": lambda vae: vae.decode(latent),
        "decode_tiled": lambda vae: vae.decode_tiled(latent, **tiles),
        "encode": lambda vae: vae.encode(picture),
        "encode_tiled": lambda vae: vae.encode_tiled(picture, **encoding),
    }


def equality() -> dict[str, dict[str, Any]]:
    """Return for each VAE and method whether it is equal bit for bit, and how far values are spread."""
    found: dict[str, dict[str, Any]] = {}
    for name in LATENTS:
        here, there = stock(name), remote(name)
        found[name] = {}
        for method, call in calls(name).items():
            with torch.inference_mode():
                # Sound is encoded with noise of torch's own generator, which both begin with the same here.
                results = []
                for vae in (here, there):
                    torch.manual_seed(3)
                    results.append(call(vae))
            found[name][method] = [same(*results), float(results[0].float().std())]
    return found


def refused(change: Callable[[Any], Any], use: Callable[[Any], Any]) -> str:
    """Return the error of a VAE that was changed, or what has come of the change without one."""
    vae = remote("sd15")
    try:
        with torch.inference_mode():
            changed = change(vae)
            use(vae if changed is None else changed)
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return "no error"


def circular(vae: Any) -> None:
    """Make pictures that can be tiled, as several packs do."""
    for layer in vae.first_stage_model.modules():
        if isinstance(layer, torch.nn.Conv2d):
            layer.padding_mode = "circular"


def circular_by_method(vae: Any) -> None:
    for layer in vae.first_stage_model.modules():
        if isinstance(layer, torch.nn.Conv2d):
            layer._conv_forward = lambda *given: given[0]


def another_dtype(vae: Any) -> None:
    vae.vae_dtype = torch.float16


def another_network(vae: Any) -> None:
    vae.first_stage_model = torch.nn.Identity()


def another_ratio(vae: Any) -> None:
    vae.upscale_ratio = 16


def object_patch(vae: Any) -> None:
    vae.patcher.add_object_patch("decoder.conv_in", torch.nn.Identity())


def a_forward(vae: Any) -> None:
    vae.first_stage_model.decoder.forward = lambda z: z


def own_decode(vae: Any) -> None:
    vae.first_stage_model.decode = lambda z: z


def decode(vae: Any) -> torch.Tensor:
    latent = noise(LATENTS["sd15"], 1)
    picture: torch.Tensor = vae.decode(latent)
    return picture


def refusals() -> dict[str, str]:
    """Return by a change of a VAE the error that it ends in."""
    changes = (
        circular,
        circular_by_method,
        another_dtype,
        another_network,
        another_ratio,
        object_patch,
        a_forward,
        own_decode,
    )
    found = {change.__name__: refused(change, decode) for change in changes}
    found["copied"] = refused(copy.deepcopy, decode)
    found["saved"] = refused(lambda vae: None, lambda vae: vae.get_sd())
    weight = "decoder.conv_in.weight"
    found["read"] = refused(lambda vae: None, lambda vae: float(vae.first_stage_model.get_parameter(weight).sum()))
    return found


def patched(vae: Any, strength: float) -> Any:
    """Put patches on weights, as packs that change a VAE do by its patcher."""
    key = "decoder.conv_in.weight"
    shape = tuple(vae.first_stage_model.state_dict()[key].shape)
    vae.patcher.add_patches({key: ("diff", (noise(shape, 5),))}, strength)
    return vae


def changes() -> dict[str, bool]:
    """Return whether changes that reach the worker give what they give locally."""
    found = {}
    with torch.inference_mode():
        here, there = (patched(make("sd15"), 0.1) for make in (stock, remote))
        found["patches"] = same(decode(here), decode(there))
        found["patches count"] = not torch.equal(decode(there), decode(remote("sd15")))
        here, there = stock("sd15"), remote("sd15")
        latent, picture = (each.to(here.vae_dtype) for each in (noise((1, 4, 8, 8), 4), pixels((1, 64, 64, 3), 5)))
        found["network decode"] = same(
            here.first_stage_model.decode(latent), there.first_stage_model.decode(latent)
        )
        moved = (picture * 2 - 1).movedim(-1, 1)
        found["network encode"] = same(here.first_stage_model.encode(moved), there.first_stage_model.encode(moved))
        found["private tiles"] = same(here.decode_tiled_(latent, 6, 6, 2), there.decode_tiled_(latent, 6, 6, 2))
        for vae in (here, there):
            vae.process_output = lambda image: image
        found["process_output"] = same(decode(here), decode(there))
        here, there = stock("ltxv"), remote("ltxv")
        results, plain = [], []
        for vae in (here, there):
            torch.manual_seed(7)
            plain.append(vae.decode(noise(LATENTS["ltxv"], 1)))
            vae.first_stage_model.decode_timestep, vae.first_stage_model.decode_noise_scale = 0.3, 0.1
            torch.manual_seed(7)
            results.append(vae.decode(noise(LATENTS["ltxv"], 1)))
        found["decode_timestep"] = same(*results) and same(*plain)
        # In an earlier release these are arguments of the network's method, and nobody reads such attributes.
        is_read = hasattr(stock("ltxv").first_stage_model, "decode_timestep")
        found["decode_timestep counts"] = is_read != torch.equal(results[0], plain[0])
        latent = noise(LATENTS["ltxv"], 2)
        statistics = [vae.first_stage_model.per_channel_statistics for vae in (here, there)]
        found["statistics"] = same(*(each.un_normalize(latent) for each in statistics))
    return found


def by_nodes() -> dict[str, bool]:
    """Return whether ComfyUI's own nodes give the same with either VAE."""
    here, there = stock("sd15"), remote("sd15")
    picture, mask, latent = (
        pixels(_PICTURE, 2),
        (pixels((1, 70, 61), 3) > 0.5).float(),
        {"samples": noise((1, 4, 8, 8), 4)},
    )
    runs: dict[str, Callable[[Any], Any]] = {
        "VAEDecode": lambda vae: nodes.VAEDecode().decode(vae, latent)[0],
        "VAEDecodeTiled": lambda vae: nodes.VAEDecodeTiled().decode(vae, latent, 64, 16)[0],
        "VAEEncode": lambda vae: nodes.VAEEncode().encode(vae, picture)[0]["samples"],
        "VAEEncodeTiled": lambda vae: nodes.VAEEncodeTiled().encode(vae, picture, 64, 16)[0]["samples"],
        "VAEEncodeForInpaint": lambda vae: nodes.VAEEncodeForInpaint().encode(vae, picture, mask)[0]["samples"],
        "InpaintModelConditioning": lambda vae: nodes.InpaintModelConditioning().encode(
            [[noise((1, 4, 8), 1), {}]], [[noise((1, 4, 8), 2), {}]], picture, vae, mask
        )[2]["samples"],
    }
    with contextlib.suppress(ImportError):  # of an older release
        select = importlib.import_module("comfy_extras.nodes_multigpu").SelectVAEDeviceNode
        runs["SelectVAEDevice"] = lambda vae: decode(select.execute(vae, "default").args[0])
    with torch.inference_mode():
        return {name: same(run(here), run(there)) for name, run in runs.items()}


def levels() -> dict[str, bool]:
    """Return whether 8-bit values are what Save Image and Save Video make of a picture, for every level."""
    every = (torch.arange(256).to(torch.uint8).float() / 255).view(1, 16, 16, 1).expand(1, 16, 16, 3)
    saved = [np.clip(255.0 * each.numpy(), 0, 255).astype(np.uint8) for each in every]
    video = (every[0] * 255).clamp(0, 255).byte()
    expected = torch.arange(256).view(16, 16, 1).expand(16, 16, 3)
    with torch.inference_mode():
        here, eight, exact = decode(stock("sd15")), decode(remote("sd15", eight_bit=True)), decode(remote("sd15"))
        sound = [
            vae.decode(noise(LATENTS["oobleck"], 1))
            for vae in (stock("oobleck"), remote("oobleck", eight_bit=True))
        ]
    files = [by_save_image(each) for each in (here, eight)]
    return {
        "every level, Save Image": torch.equal(torch.from_numpy(saved[0]).long(), expected),
        "every level, saved file": torch.equal(by_save_image(every)[0].long(), expected),
        "every level, Save Video": torch.equal(video.long(), expected),
        "files are the same": all(map(torch.equal, *files)),
        "bits are not": not torch.equal(here, eight) and torch.equal(here, exact),
        "form": (here.shape, here.dtype, here.stride()) == (eight.shape, eight.dtype, eight.stride()),
        "sound stays exact": same(*sound),
    }


def by_save_image(pictures: torch.Tensor) -> list[torch.Tensor]:
    """Return the pixels of the files that ComfyUI's Save Image writes."""
    saving = nodes.SaveImage()
    with tempfile.TemporaryDirectory() as folder:
        saving.output_dir = folder
        names = [each["filename"] for each in saving.save_images(pictures)["ui"]["images"]]
        return [torch.from_numpy(np.array(Image.open(Path(folder) / name))) for name in names]


def intermediates() -> dict[str, bool]:
    """Return whether results follow the client's --fp16-intermediates, and not the worker's."""
    if not hasattr(args, "fp16_intermediates"):
        return {}
    found = {}
    here, there = stock("wan21"), remote("wan21")
    with torch.inference_mode():
        for name, call in calls("wan21").items():
            args.fp16_intermediates = True
            expected = call(here)
            args.fp16_intermediates = False
            there.vae_output_dtype = lambda: torch.float16
            # Tiles are averaged in float32.
            dtype = torch.float32 if name.endswith("tiled") else torch.float16
            found[name] = same(expected, call(there)) and expected.dtype is dtype
    return found


class _Restarted(LoopbackTransport):
    """A worker that is another one from the second exchange on after `restart`."""

    def __init__(self) -> None:
        super().__init__(Handler(BACKEND))

    def restart(self) -> None:
        BACKEND.pool.clear()
        self._handler = Handler(BACKEND)


def restarted() -> dict[str, bool]:
    """Return whether a worker that is lost between encoding and decoding makes a difference."""
    transport = _Restarted()
    vae = RemoteVae(Session(transport).module(ModelRef(name="vae:sd15.safetensors")))
    here, picture = stock("sd15"), pixels(_PICTURE, 2)
    with torch.inference_mode():
        encoded = vae.encode(picture)
        transport.restart()
        return {"decoded": same(here.decode(here.encode(picture)), vae.decode(encoded))}


def in_parts() -> dict[str, Any]:
    """Return whether a large video comes whole in parts, with a progress bar."""
    session = Session(LoopbackTransport(Handler(BACKEND)), SessionOptions(most_reply_bytes=10_000))
    vae = RemoteVae(session.module(ModelRef(name="vae:wan21.safetensors")))
    told: list[tuple[int, int]] = []
    comfy.utils.set_progress_bar_global_hook(lambda value, total, *_, **__: told.append((value, total)))
    latent = noise(LATENTS["wan21"], 1)
    with torch.inference_mode():
        equal = same(stock("wan21").decode(latent), vae.decode(latent))
    comfy.utils.set_progress_bar_global_hook(None)
    return {"equal": equal, "told": bool(told) and told[-1][0] == told[-1][1] > 10_000}


def of_a_checkpoint() -> dict[str, bool]:
    """Return whether the VAE of a checkpoint, beside a small SD1.5, gives what ComfyUI's own loader gives."""
    network = build_models.unet().state_dict()
    weights = {f"model.diffusion_model.{key}": value.contiguous() for key, value in network.items()}
    own = load_file(FOLDER / "vae" / "sd15.safetensors")
    weights |= {f"first_stage_model.{key}": value for key, value in own.items()}
    (FOLDER / "checkpoints").mkdir()
    path = FOLDER / "checkpoints" / "whole.safetensors"
    save_file(weights, path)
    folder_paths.add_model_folder_path("checkpoints", str(path.parent), True)
    here = comfy.sd.load_checkpoint_guess_config(str(path), output_vae=True, output_clip=False)[2]
    there = RemoteVae(SESSION.module(ModelRef(name="checkpoint_vae:whole.safetensors")))
    with torch.inference_mode():
        return {method: same(call(here), call(there)) for method, call in calls("sd15").items()}


def listed() -> dict[str, bool]:
    """Return whether the worker lists what ComfyUI's Load VAE does."""
    offered = nodes.VAELoader.INPUT_TYPES()["required"]["vae_name"][0]
    return {
        "listed": {entry.name for entry in SESSION.welcome.models if entry.folder.startswith("vae")}
        == {*offered} - {"pixel_space"}
    }


if __name__ == "__main__":
    found: dict[str, Any] = {"equal": equality(), "levels": levels()}
    if len(sys.argv) == 3:  # what does not depend on the dtype
        found |= {
            "refused": refusals(),
            "changed": changes(),
            "nodes": by_nodes(),
            "intermediates": intermediates(),
            "restarted": restarted(),
            "in parts": in_parts(),
            "listed": listed(),
            "checkpoint": of_a_checkpoint(),
        }
    print(json.dumps(found))
