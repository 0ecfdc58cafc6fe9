"""Text encoders as ComfyUI loads them, and at a worker in this process, through a client's own session.

PYTHON SCRIPT.py COMFYUI_ROOT FOLDER
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT, FOLDER = map(Path, sys.argv[1:3])

import torch  # noqa: E402

from comfy_gpu_offload.comfyui.worker.backend import ComfyUIBackend  # noqa: E402

BACKEND = ComfyUIBackend(ROOT, models_dir=FOLDER, cpu=not torch.cuda.is_available())

# Before nodes, which puts a folder in front of the path that has a utils too.
import utils.install_util  # noqa: E402, F401, I001

import folder_paths  # noqa: E402
import nodes  # noqa: E402, F401
import small_encoders  # noqa: E402

from comfy_gpu_offload.client.session import Session  # noqa: E402
from comfy_gpu_offload.comfyui.client.file_data_cache import FileDataCache  # noqa: E402
from comfy_gpu_offload.comfyui.client.text_encoder import remote_clip  # noqa: E402
from comfy_gpu_offload.comfyui.installation import text_encoder_files  # noqa: E402
from comfy_gpu_offload.protocol.messages import ModelRef  # noqa: E402
from comfy_gpu_offload.server.handler import Handler  # noqa: E402
from comfy_gpu_offload.transport.loopback import LoopbackTransport  # noqa: E402

(FOLDER / "embeddings").mkdir()
folder_paths.add_model_folder_path("embeddings", str(FOLDER / "embeddings"), is_default=True)
small_encoders.make_small()
HANDLER = Handler(BACKEND)
SESSION = Session(LoopbackTransport(HANDLER))
CACHE = FileDataCache(FOLDER / "kept")
PROMPTS = ("a cat", "a (very:1.3) long prompt of [many] words " * 12)


def remote_of(choice: str, *names: str, session: Session = SESSION) -> Any:
    """Return a CLIP at the worker, of files that are written unless they are there."""
    for name in names:
        if not (FOLDER / "text_encoders" / f"{name}.safetensors").exists():
            small_encoders.write(FOLDER, name)
    first, *further = [f"{name}.safetensors" for name in names]
    options = (("type", text_encoder_files.clip_type_name(choice)),)
    ref = ModelRef(name=f"text_encoder:{first}", files=tuple(further), options=options)
    return remote_clip(session.module(ref), CACHE)


@dataclass
class Pair:
    """A CLIP as ComfyUI itself loads it, and one at the worker."""

    stock: Any
    remote: Any

    @classmethod
    def of(cls, choice: str, *names: str, session: Session = SESSION) -> Pair:
        remote = remote_of(choice, *names, session=session)
        found = [text_encoder_files.TEXT_ENCODERS.find_file(f"{name}.safetensors") for name in names]
        stock = text_encoder_files.load_clip(
            found,
            text_encoder_files.clip_type_name(choice),
            on_cpu=False,
            embeddings=folder_paths.get_folder_paths("embeddings"),
        )
        return cls(stock, remote)

    def each(self, change: Callable[[Any], Any]) -> Pair:
        """Return both after a node."""
        return Pair(change(self.stock), change(self.remote))


def encoded(clip: Any, prompt: str = PROMPTS[1], **further: Any) -> Any:
    """Return conditioning as ComfyUI's CLIP Text Encode makes it."""
    with torch.inference_mode():
        return clip.encode_from_tokens_scheduled(clip.tokenize(prompt, **further))


def equal(one: Any, other: Any) -> bool:
    """Return whether two trees are the same, tensors bit for bit and on the same device."""
    if isinstance(one, torch.Tensor):
        same = isinstance(other, torch.Tensor) and (one.dtype, one.device) == (other.dtype, other.device)
        return same and torch.equal(one, other)
    if isinstance(one, Mapping):
        return one.keys() == other.keys() and all(equal(one[key], other[key]) for key in one)
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(map(equal, one, other))
    return bool(one == other)


def compared(pair: Pair, encode: Callable[[Any], Any] = encoded) -> dict[str, Any]:
    """Return whether both give the same, and some numbers of it."""
    stock, remote = encode(pair.stock), encode(pair.remote)
    first = stock[0][0] if isinstance(stock, list) else stock[0] if isinstance(stock, tuple) else stock
    return {
        "equal": equal(stock, remote),
        "spread": float(first.std()),
        "first": [float(each) for each in first.flatten()[-4:]],
    }
