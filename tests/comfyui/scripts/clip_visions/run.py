"""CLIP vision models at a worker: outputs bit for bit as in ComfyUI, and each change made or refused by name.

    PYTHON run.py COMFYUI_ROOT FOLDER

FOLDER is an empty one. Prints JSON, for test_clip_visions.py to judge.
"""

from __future__ import annotations

import copy
import inspect
import json
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

ROOT, FOLDER = map(Path, sys.argv[1:3])
sys.path.insert(0, str(ROOT))

from comfy.cli_args import args  # noqa: E402

args.cpu = True

import torch  # noqa: E402

from comfy_gpu_offload.comfyui.worker.backend import ComfyUIBackend  # noqa: E402

BACKEND = ComfyUIBackend(ROOT, models_dir=FOLDER, cpu=True)

# Before nodes, which puts a folder in front of the path that has a utils too.
import utils.install_util  # noqa: E402, F401

sys.path.append(str(Path(__file__).parents[1]))
import comfy.clip_vision  # noqa: E402
import comfy.sd  # noqa: E402
import execution  # noqa: E402
import folder_paths  # noqa: E402
import nodes  # noqa: E402
import small_clip_visions  # noqa: E402

from comfy_gpu_offload.client.session import Session  # noqa: E402
from comfy_gpu_offload.comfyui.client import loader  # noqa: E402
from comfy_gpu_offload.comfyui.client.remote_clip_vision import RemoteClipVision  # noqa: E402
from comfy_gpu_offload.comfyui.wire.plain_values import from_plain, to_plain  # noqa: E402
from comfy_gpu_offload.io.tree import pack  # noqa: E402
from comfy_gpu_offload.nodes.clip_vision_loader import RemoteCLIPVisionLoader  # noqa: E402
from comfy_gpu_offload.protocol.messages import ModelRef  # noqa: E402
from comfy_gpu_offload.server.handler import Handler  # noqa: E402
from comfy_gpu_offload.transport.loopback import LoopbackTransport  # noqa: E402

small_clip_visions.shrink()
small_clip_visions.write(FOLDER)
for folder in ("clip_vision", "checkpoints"):
    folder_paths.add_model_folder_path(folder, str(FOLDER / folder), True)


class Counting(LoopbackTransport):
    """A worker in this process that counts the bytes of requests and of replies."""

    up = down = 0

    def exchange(self, *given: Any, **named: Any) -> Any:
        reply = super().exchange(*given, **named)
        self.up += memoryview(given[1].joined()).nbytes
        self.down += memoryview(reply).nbytes
        return reply


SESSION = Session(LoopbackTransport(Handler(BACKEND)))


def remote(name: str, session: Session = SESSION) -> RemoteClipVision:
    return RemoteClipVision(session.module(ModelRef(name=f"clip_vision:{name}")))


def stock(name: str) -> Any:
    return nodes.CLIPVisionLoader().load_clip(name)[0]


def picture(seed: int, shape: tuple[int, ...] = (2, 70, 61, 3), *, from_file: bool = True) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    if from_file:
        return torch.randint(0, 256, shape, generator=generator).float() / 255.0
    return torch.rand(shape, generator=generator)


def same(one: Any, other: Any) -> bool:
    if not isinstance(one, torch.Tensor):
        return type(one) is type(other) and bool(one == other)
    facts = [(each.shape, each.dtype, each.device, each.stride()) for each in (one, other)]
    return facts[0] == facts[1] and torch.equal(one, other)


def differing(here: Any, there: Any) -> list[str]:
    """Return the names of fields of two outputs that are not the same."""
    fields = dict(vars(here))
    return [name for name, value in fields.items() if not same(value, getattr(there, name, None))]


def equality() -> dict[str, Any]:
    """Return for each model the fields that differ, with those of its output, and how far values are spread."""
    found = {}
    pictures = {
        "of a file": (picture(1, (1, 70, 61, 3)), {}),
        "several": (picture(1), {}),
        "not cropped": (picture(1), {"crop": False}),
        "of numbers": (picture(2, from_file=False), {}),
        "with alpha": (picture(3, (1, 40, 50, 4)), {}),
        "a view": (picture(4, (1, 60, 80, 3))[:, 5:50, ::2], {}),
    }
    for name in small_clip_visions.names():
        here, there = stock(f"{name}.safetensors"), remote(f"{name}.safetensors")
        for kind, (image, named) in pictures.items():
            # All layers of several pictures have gaps in memory between those of one layer.
            if name != "vit_h" and kind not in {"several" if name == "siglip" else "of a file", "a view"}:
                continue
            with torch.inference_mode():
                outputs = [each.encode_image(image, **named) for each in (here, there)]
            spread = float(outputs[0].last_hidden_state.float().std())
            found[f"{name}, {kind}"] = [differing(*outputs), sorted(vars(outputs[0])), spread]
    return found


def by_packs() -> dict[str, bool]:
    """Return whether what packs do by themselves gives the same: call the network with prepared pictures."""
    found = {}
    for name in ("vit_h", "dino2"):
        here, there = stock(f"{name}.safetensors"), remote(f"{name}.safetensors")
        with torch.inference_mode():
            pixels = comfy.clip_vision.clip_preprocess(picture(5), size=here.image_size).float()
            for layer in (-2, None, "all"):
                if name == "dino2" and layer == "all":
                    continue
                results = [each.model(pixel_values=pixels, intermediate_output=layer) for each in (here, there)]
                found[f"{name}, {layer}"] = all(map(same, *results))
            found[f"{name}, by position"] = all(map(same, here.model(pixels), there.model(pixels)))
    shapes = [each.model.vision_model.embeddings.position_embedding.weight.shape for each in (here_and_there())]
    found["shapes"] = shapes[0] == shapes[1]
    return found


def here_and_there() -> tuple[Any, Any]:
    return stock("vit_h.safetensors"), remote("vit_h.safetensors")


def by_nodes() -> dict[str, bool]:
    """Return whether what ComfyUI's own nodes make of an output is the same."""
    found = {}
    here, there = (nodes.CLIPVisionEncode().encode(each, picture(6), "center")[0] for each in here_and_there())
    conditioning = [[torch.zeros(1, 4, 8), {}]]
    given = [nodes.unCLIPConditioning().apply_adm(conditioning, each, 1.0, 0.1)[0][0][1] for each in (here, there)]
    embeds = [each["unclip_conditioning"][0]["clip_vision_output"].image_embeds for each in given]
    found["unCLIPConditioning"] = same(*embeds)
    style = comfy.sd.StyleModel(torch.nn.Identity())
    text = [[torch.zeros(1, 4, 64), {}]]
    apply = nodes.StyleModelApply().apply_stylemodel
    applied = [apply(text, style, each, 0.5, "multiply")[0][0][0] for each in (here, there)]
    found["StyleModelApply"] = same(*applied)
    one = picture(7, (1, 40, 50, 3))
    siglip = remote("siglip.safetensors").encode_image(one)
    expected = stock("siglip.safetensors").encode_image(one)
    plain = from_plain(to_plain({"output": siglip}))["output"]
    pack(to_plain({"output": siglip}), "output")
    found["sent with a run"] = type(plain) is comfy.clip_vision.Output and same(
        plain.last_hidden_state, expected.last_hidden_state
    )
    found["not fetched before"] = "all_hidden_states" not in vars(siglip)
    copied = copy.deepcopy(siglip)
    found["copied"] = type(copied) is comfy.clip_vision.Output and not differing(expected, copied)
    found["no others"] = not hasattr(siglip, "hidden") and not hasattr(there, "all_hidden_states")
    return found


class Keep:
    """An output node that keeps what it is given by name."""

    CATEGORY = "testing"
    RETURN_TYPES = ()
    FUNCTION = "keep"
    OUTPUT_NODE = True
    kept: dict[str, Any] = {}  # noqa: RUF012

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        return {"required": {"output": ("CLIP_VISION_OUTPUT",), "name": ("STRING", {})}}

    def keep(self, output: Any, name: str) -> dict[str, Any]:
        self.kept[name] = output
        return {}


class Picture:
    """A node that returns a picture."""

    CATEGORY = "testing"
    RETURN_TYPES = ("IMAGE",)
    FUNCTION = "make"

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        return {"required": {}}

    def make(self) -> tuple[torch.Tensor]:
        return (picture(10),)


def by_prompt() -> dict[str, Any]:
    """Return what ComfyUI's executor makes of a prompt with Load CLIP Vision and Remote CLIP Vision Loader."""
    loader.remote_module = lambda ref: (SESSION, SESSION.module(ref))
    RemoteCLIPVisionLoader.GET_SCHEMA()
    nodes.NODE_CLASS_MAPPINGS |= {"Keep": Keep, "Picture": Picture, "Remote": RemoteCLIPVisionLoader}
    prompt: dict[str, Any] = {"picture": {"class_type": "Picture", "inputs": {}}}
    file = "vit_h.safetensors"
    loaders = {
        "stock": ("CLIPVisionLoader", {"clip_name": file}),
        "worker": ("Remote", {"clip_name": file, "use_runpod": True}),
        "here": ("Remote", {"clip_name": file, "use_runpod": False}),
    }
    for name, (kind, inputs) in loaders.items():
        vision = {"clip_vision": [f"{name}-load", 0], "image": ["picture", 0], "crop": "center"}
        prompt[f"{name}-load"] = {"class_type": kind, "inputs": inputs}
        prompt[f"{name}-encode"] = {"class_type": "CLIPVisionEncode", "inputs": vision}
        prompt[f"{name}-keep"] = {"class_type": "Keep", "inputs": {"output": [f"{name}-encode", 0], "name": name}}
    server = SimpleNamespace(client_id=None, last_node_id=None, last_prompt_id=None, send_sync=lambda *_: None)
    named = inspect.signature(execution.PromptExecutor).parameters
    sizes = {"cache_args": {"lru": 0, "ram": 0.0, "ram_inactive": 0.0}} if "cache_args" in named else {}
    executor = execution.PromptExecutor(server, **sizes)
    executor.execute(prompt, "prompt", {}, [f"{name}-keep" for name in loaders])
    found: dict[str, Any] = {"succeeded": executor.success}
    if executor.success:
        stock_output = Keep.kept["stock"]
        found |= {name: differing(stock_output, Keep.kept[name]) for name in ("worker", "here")}
    return found | {"said": [str(each[1].get("exception_message", "")) for each in executor.status_messages][-1]}


def of_checkpoints() -> dict[str, Any]:
    """Return whether the image encoder of a checkpoint is listed, and gives what ComfyUI's own loader's gives."""
    path = str(FOLDER / "checkpoints" / "unclip.safetensors")
    here = comfy.sd.load_checkpoint_guess_config(
        path, output_vae=False, output_clip=False, output_clipvision=True, output_model=False
    )[3]
    there = remote("checkpoints/unclip.safetensors")
    with torch.inference_mode():
        fields = differing(here.encode_image(picture(8)), there.encode_image(picture(8)))
    entries = {(entry.folder, entry.name): entry.size_bytes for entry in SESSION.models()}
    whole = entries["checkpoints", "unclip.safetensors"]
    listed = sorted(name for folder, name in entries if folder == "clip_vision")
    expected = [*(f"{name}.safetensors" for name in small_clip_visions.names()), "checkpoints/unclip.safetensors"]
    return {"differing": fields, "listed": listed == sorted(expected), "whole": whole > 0}


def error_of(use: Callable[[], Any]) -> str:
    try:
        with torch.inference_mode():
            use()
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return "no error"


def after(change: Callable[[Any], Any]) -> str:
    """Return the error of a model that was changed, or what has come of the change without one."""
    vision = remote("vit_l.safetensors")

    def use() -> None:
        change(vision)
        vision.encode_image(picture(1))

    return error_of(use)


def another_size(vision: Any) -> None:
    vision.image_size = 336


def another_mean(vision: Any) -> None:
    vision.image_mean[0] = 0.1


def a_forward(vision: Any) -> None:
    vision.model.vision_model.encoder.layers[0].forward = lambda x, *_: x


def own_forward(vision: Any) -> None:
    vision.model.forward = lambda *_, **__: None


def another_network(vision: Any) -> None:
    vision.model = torch.nn.Identity()


def object_patch(vision: Any) -> None:
    vision.patcher.add_object_patch("vision_model.post_layernorm", torch.nn.Identity())


def other_preprocessing(vision: Any) -> None:
    comfy.clip_vision.clip_preprocess = lambda image, **_: image


def refusals() -> dict[str, str]:
    """Return by a change of a model, or a use of it, the error that it ends in."""
    changes = (another_size, another_mean, a_forward, own_forward, another_network, object_patch)
    found = {change.__name__: after(change) for change in changes}
    original = comfy.clip_vision.clip_preprocess
    found["other_preprocessing"] = after(other_preprocessing)
    comfy.clip_vision.clip_preprocess = original
    vision = remote("vit_h.safetensors")
    found["copied"] = error_of(lambda: copy.deepcopy(vision))
    found["saved"] = error_of(vision.get_sd)
    found["loaded"] = error_of(lambda: vision.load_sd({}))
    found["whole numbers"] = error_of(lambda: vision.encode_image(torch.zeros(1, 8, 8, 3, dtype=torch.uint8)))
    found["other arguments"] = error_of(lambda: vision.model(pixel_values=picture(1), attention_mask=picture(2)))
    found["read"] = error_of(lambda: float(vision.model.visual_projection.weight.sum()))
    found["without one"] = error_of(lambda: remote("checkpoints/without.safetensors"))
    found["another file"] = error_of(lambda: remote("no_encoder.safetensors"))
    return found


def patched() -> dict[str, bool]:
    """Return whether patches on weights give what they give locally."""
    outputs = []
    for vision in here_and_there():
        key = "vision_model.encoder.layers.0.mlp.fc1.weight"
        shape = tuple(vision.model.state_dict()[key].shape)
        change = torch.randn(shape, generator=torch.Generator().manual_seed(9))
        vision.patcher.add_patches({key: ("diff", (change,))}, 0.1)
        with torch.inference_mode():
            outputs.append(vision.encode_image(picture(1)))
    with torch.inference_mode():
        plain = remote("vit_h.safetensors").encode_image(picture(1))
    return {"equal": not differing(*outputs), "count": bool(differing(plain, outputs[1]))}


def sizes() -> dict[str, int]:
    """Return the bytes of a picture that goes up, and of the outputs of SigLIP with and without all layers."""
    transport = Counting(Handler(BACKEND))
    vision = remote("siglip.safetensors", Session(transport))
    image = picture(1, (1, 512, 512, 3))
    up, down = transport.up, transport.down
    output = vision.encode_image(image)
    found = {"picture": image.nbytes, "up": transport.up - up, "down": transport.down - down}
    down = transport.down
    every = output.all_hidden_states
    return {**found, "every": every.nbytes, "later": transport.down - down}


if __name__ == "__main__":
    (FOLDER / "clip_vision" / "no_encoder.safetensors").write_bytes(
        (FOLDER / "checkpoints" / "without.safetensors").read_bytes()
    )
    SESSION.models()
    found: dict[str, Any] = {
        "equal": equality(),
        "packs": by_packs(),
        "nodes": by_nodes(),
        "prompt": by_prompt(),
        "refused": refusals(),
        "patched": patched(),
        "sizes": sizes(),
    }
    (FOLDER / "clip_vision" / "no_encoder.safetensors").unlink()
    found["checkpoint"] = of_checkpoints()
    print(json.dumps(found))
