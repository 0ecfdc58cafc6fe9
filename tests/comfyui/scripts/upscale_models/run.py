"""Upscale models at a worker: ComfyUI's own node bit for bit, whole; tiles by packs; refusals by name.

    PYTHON run.py COMFYUI_ROOT FOLDER

FOLDER is an empty one. Prints JSON, for test_upscale_models.py to judge.
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
import comfy.utils  # noqa: E402
import folder_paths  # noqa: E402
from comfy_extras.nodes_upscale_model import ImageUpscaleWithModel, UpscaleModelLoader  # noqa: E402
from spandrel import ImageModelDescriptor  # noqa: E402
from spandrel.architectures.Compact import Compact  # noqa: E402
from spandrel.architectures.SCUNet import SCUNet  # noqa: E402

from comfy_gpu_offload.client.session import Session, SessionOptions  # noqa: E402
from comfy_gpu_offload.comfyui.client import whole_upscale  # noqa: E402
from comfy_gpu_offload.comfyui.client.remote_upscale_model import RemoteUpscaleModel  # noqa: E402
from comfy_gpu_offload.protocol.messages import ModelRef  # noqa: E402
from comfy_gpu_offload.server.handler import Handler  # noqa: E402
from comfy_gpu_offload.transport.loopback import LoopbackTransport  # noqa: E402


def write() -> None:
    """Write a model that enlarges, in two kinds of files, one that restores, of certain sizes, and no model."""
    folder = FOLDER / "upscale_models"
    folder.mkdir()
    torch.manual_seed(1)
    twice = Compact(num_feat=8, num_conv=2, upscale=2).state_dict()
    save_file({key: value.contiguous() for key, value in twice.items()}, folder / "twice.safetensors")
    torch.save(twice, folder / "twice.pth")
    torch.manual_seed(2)
    restoring = SCUNet(config=[1, 1, 1, 1, 1, 1, 1], dim=64).state_dict()
    save_file({key: value.contiguous() for key, value in restoring.items()}, folder / "restoring.safetensors")
    save_file({"weight": torch.zeros(2, 2)}, folder / "none.safetensors")
    folder_paths.add_model_folder_path("upscale_models", str(folder), True)


class Counting(LoopbackTransport):
    """A worker in this process that counts exchanges, and the bytes of requests."""

    exchanges = up = 0

    def exchange(self, *given: Any, **named: Any) -> Any:
        self.exchanges += 1
        self.up += memoryview(given[1].joined()).nbytes
        return super().exchange(*given, **named)


TRANSPORT = Counting(Handler(BACKEND))
SESSION = Session(TRANSPORT)


def remote(name: str, session: Session = SESSION, **options: Any) -> RemoteUpscaleModel:
    return RemoteUpscaleModel(session.module(ModelRef(name=f"upscale_model:{name}")), **options)


def stock(name: str) -> Any:
    return UpscaleModelLoader.execute(name).args[0]


def by_node(model: Any, picture: torch.Tensor) -> torch.Tensor:
    with torch.inference_mode():
        made: torch.Tensor = ImageUpscaleWithModel.execute(model, picture).args[0]
    return made


def picture(shape: tuple[int, ...], *, from_file: bool = True) -> torch.Tensor:
    generator = torch.Generator().manual_seed(sum(shape))
    if from_file:
        return torch.randint(0, 256, shape, generator=generator).float() / 255.0
    return torch.rand(shape, generator=generator)


def same(one: torch.Tensor, other: torch.Tensor) -> bool:
    facts = [(each.shape, each.dtype, each.device, each.stride()) for each in (one, other)]
    return facts[0] == facts[1] and torch.equal(one, other)


_PICTURES = {
    "small": picture((2, 37, 45, 3)),
    "in tiles": picture((1, 540, 70, 3)),
    "of numbers": picture((1, 30, 30, 3), from_file=False),
    "a view": picture((1, 60, 80, 3))[:, 5:50, ::2],
}


def equality() -> dict[str, Any]:
    """Return whether ComfyUI's node gives the same, how far values are spread, and the exchanges that it took."""
    found = {}
    for name in ("twice.safetensors", "twice.pth", "restoring.safetensors"):
        here, there = stock(name), remote(name)
        for kind, given in _PICTURES.items():
            if name.startswith("restoring") and kind == "in tiles":
                continue
            before = TRANSPORT.exchanges
            results = [by_node(each, given) for each in (here, there)]
            exchanges = TRANSPORT.exchanges - before
            found[f"{name}, {kind}"] = [same(*results), float(results[0].std()), exchanges]
    return found


def by_tiles(model: Any, given: torch.Tensor) -> torch.Tensor:
    """Return what packs do by themselves that have copied the node's code."""
    with torch.inference_mode():
        moved = given.movedim(-1, -3)
        made = comfy.utils.tiled_scale(moved, model, tile_x=64, tile_y=64, overlap=8, upscale_amount=model.scale)
        result: torch.Tensor = made
        return result


def by_packs() -> dict[str, bool]:
    """Return whether what packs read and call of a model is as with a local one."""
    found = {}
    facts = ("scale", "input_channels", "output_channels", "size_requirements", "tags", "purpose", "tiling")
    facts += ("supports_half", "supports_bfloat16", "dtype", "device")
    for name in ("twice.safetensors", "restoring.safetensors"):
        here, there = stock(name), remote(name)
        found[f"{name}, facts"] = all(getattr(here, fact) == getattr(there, fact) for fact in facts)
        found[f"{name}, architecture"] = here.architecture.name == there.architecture.name
        given = picture((1, 90, 100, 3))
        found[f"{name}, tiles"] = same(by_tiles(here, given), by_tiles(there, given))
        moved = picture((1, 64, 64, 3)).movedim(-1, 1)
        with torch.inference_mode():
            found[f"{name}, network"] = same(here.model(moved), there.model(moved))
        found[f"{name}, moved"] = there.to("cpu").eval() is there
    found["spandrel's"] = isinstance(there, ImageModelDescriptor)
    return found


def levels() -> dict[str, bool]:
    """Return whether 8-bit values are what Save Image makes of a picture."""
    given = picture((1, 37, 45, 3))
    here, eight = (by_node(each, given) for each in (stock("twice.pth"), remote("twice.pth", eight_bit=True)))
    saved = [(each * 255.0).clamp(0, 255).to(torch.uint8) for each in (here, eight)]
    form = [(each.shape, each.dtype, each.stride()) for each in (here, eight)]
    return {"saved": torch.equal(*saved), "form": form[0] == form[1], "bits are not": not torch.equal(here, eight)}


def intermediates() -> bool:
    """Return whether results follow the client's --fp16-intermediates; True where ComfyUI has no such thing."""
    if not hasattr(args, "fp16_intermediates"):
        return True
    given = picture((1, 20, 20, 3))
    args.fp16_intermediates = True
    here = by_node(stock("twice.pth"), given)
    there = by_node(remote("twice.pth"), given)
    args.fp16_intermediates = False
    return here.dtype is torch.float16 and same(here, there)


def in_parts() -> dict[str, bool]:
    """Return whether a large picture comes whole in parts, with a progress bar."""
    session = Session(LoopbackTransport(Handler(BACKEND)), SessionOptions(most_reply_bytes=10_000))
    told: list[tuple[int, int]] = []
    given = picture((1, 64, 64, 3), from_file=False)
    here = by_node(stock("twice.pth"), given)
    comfy.utils.set_progress_bar_global_hook(lambda value, total, *_, **__: told.append((value, total)))
    there = by_node(remote("twice.pth", session), given)
    comfy.utils.set_progress_bar_global_hook(None)
    return {"equal": same(here, there), "told": bool(told) and told[-1][0] == told[-1][1] > 10_000}


def error_of(use: Callable[[], Any]) -> str:
    try:
        use()
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return "no error"


def after(change: Callable[[Any], Any]) -> str:
    """Return the error of a model that was changed, or what has come of the change without one."""
    model = remote("twice.pth")

    def use() -> None:
        change(model)
        by_node(model, picture((1, 20, 20, 3)))

    return error_of(use)


def another_scale(model: Any) -> None:
    model.scale = 3


def own_forward(model: Any) -> None:
    model.model.forward = lambda image: image


def another_network(model: Any) -> None:
    model._model = torch.nn.Identity()


def object_patch(model: Any) -> None:
    model.patcher.add_object_patch("body", torch.nn.Identity())


def refusals() -> dict[str, str]:
    """Return by a change of a model, or a use of it, the error that it ends in."""
    found = {each.__name__: after(each) for each in (another_scale, own_forward, another_network, object_patch)}
    found["half"] = error_of(remote("twice.pth").half)
    found["copied"] = error_of(lambda: copy.deepcopy(remote("twice.pth")))
    found["no model"] = error_of(lambda: remote("none.safetensors"))
    found["not there"] = error_of(lambda: remote("missing.pth"))
    found["whole numbers"] = error_of(
        lambda: by_node(remote("twice.pth"), torch.zeros(1, 8, 8, 3, dtype=torch.uint8))
    )
    return found


if __name__ == "__main__":
    write()
    whole_upscale.send_whole_pictures()
    whole_upscale.send_whole_pictures()
    up = TRANSPORT.up
    by_node(remote("twice.pth"), picture((1, 256, 256, 3)))
    found: dict[str, Any] = {
        "up": TRANSPORT.up - up,
        "equal": equality(),
        "packs": by_packs(),
        "levels": levels(),
        "intermediates": intermediates(),
        "in parts": in_parts(),
        "refused": refusals(),
        "listed": sorted(entry.name for entry in SESSION.models() if entry.folder == "upscale_models"),
    }
    print(json.dumps(found))
