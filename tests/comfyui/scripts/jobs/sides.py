"""A sampling job from a stand-in model through a frame to a worker's backend, and the stock way beside it."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

ROOT, FOLDER = map(Path, sys.argv[1:3])

import torch  # noqa: E402

from comfy_gpu_offload.client.remote_model import RemoteModel  # noqa: E402
from comfy_gpu_offload.comfyui.worker.backend import ComfyUIBackend  # noqa: E402
from comfy_gpu_offload.io import tree  # noqa: E402
from comfy_gpu_offload.protocol.envelope import open_frame, seal  # noqa: E402
from comfy_gpu_offload.protocol.messages import ModelRef, SampleJob, expect  # noqa: E402

BACKEND = ComfyUIBackend(ROOT, models_dir=FOLDER, cpu=not torch.cuda.is_available())

# Before nodes, which puts a folder in front of the path that has a utils too.
import utils.install_util  # noqa: E402, F401, I001

import nodes  # noqa: E402

from comfy_gpu_offload.comfyui.client.patcher import remote_patcher  # noqa: E402
from comfy_gpu_offload.comfyui.client.sampling.whole_loop import run_whole_loop  # noqa: E402
from comfy_gpu_offload.comfyui.installation import diffusion_model_files  # noqa: E402

Patch = Callable[[Any], Any]


@dataclass(frozen=True)
class Kind:
    """A model, with the sizes of its latent and conditioning."""

    file: str
    latent: tuple[int, ...]
    width: int
    pooled: int = 0
    extra: Mapping[str, Any] = field(default_factory=dict)


MMDIT = Kind("mmdit.safetensors", (1, 16, 8, 6), 96, 64)
UNET = Kind("video/unet.safetensors", (1, 4, 4, 4), 768)
WAN = Kind("wan.safetensors", (1, 16, 2, 4, 4), 4096)
LTXAV = Kind("ltxav.safetensors", (1, 128, 2, 3, 2), 128, extra={"frame_rate": 24.0})
LTXV = Kind(
    "ltxv.safetensors", (1, 128, 2, 3, 2), 4096, extra={"attention_mask": torch.ones(1, 6, dtype=torch.int64)}
)


@dataclass(frozen=True)
class Case:
    """A run: KSampler's inputs, and the patch that is put on the model before."""

    kind: Kind
    latent: Mapping[str, Any]
    positive: Any
    negative: Any
    patch: Patch = lambda model: model
    fields: Mapping[str, Any] = field(default_factory=dict)


def noise(shape: tuple[int, ...], seed: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def condition(kind: Kind, seed: int, **further: Any) -> list[Any]:
    options = {**kind.extra, **further}
    if kind.pooled:
        options["pooled_output"] = noise((1, kind.pooled), seed + 1)
    return [noise((1, 6, kind.width), seed), options]


def case(
    kind: Kind, patch: Patch = lambda model: model, latent: Mapping[str, Any] | None = None, **fields: Any
) -> Case:
    return Case(
        kind,
        {"samples": torch.zeros(kind.latent), **(latent or {})},
        [condition(kind, 10)],
        [condition(kind, 20)],
        patch,
        fields,
    )


def settings(fields: Mapping[str, Any]) -> dict[str, Any]:
    plain = {"sampler": "euler", "scheduler": "normal", "seed": 5, "steps": 3, "cfg": 4.0, "denoise": 1.0}
    return {**plain, **fields}


class Sides:
    """The stock model, and the stand-in for the backend's, by kind."""

    def __init__(self) -> None:
        self._stock: dict[str, Any] = {}
        self._remote: dict[str, Any] = {}

    def stock(self, kind: Kind) -> Any:
        if kind.file not in self._stock:
            self._stock[kind.file] = diffusion_model_files.load_patcher(
                diffusion_model_files.DIFFUSION_MODELS.find_file(kind.file), "default"
            )
        return self._stock[kind.file]

    def remote(self, kind: Kind) -> Any:
        if kind.file not in self._remote:
            found = BACKEND.describe(ModelRef(name=kind.file))
            self._remote[kind.file] = remote_patcher(RemoteModel(None, found.description, found.details))  # type: ignore[arg-type]
        return self._remote[kind.file]


SIDES = Sides()


def job_of(kind: Kind, fields: Mapping[str, Any]) -> SampleJob:
    description = SIDES.remote(kind).remote.description
    identity = {"request": "r" * 16, "client": "c" * 16, "reply_codec": "raw"}
    return SampleJob(model=description.ref, fingerprint=description.fingerprint, **identity, **fields)


def over_the_wire(job: SampleJob, parts: Any) -> tuple[SampleJob, Any]:
    """Return the job and its tree as they arrive."""
    envelope = open_frame(seal(job, tree.pack(parts, "job")).joined())
    return expect(envelope.message, SampleJob), envelope.unpack()


def sample_whole(kind: Kind, report: Any = lambda *_: None) -> Callable[..., tuple[Any, None]]:
    """Return a substitute for `RemoteModel.sample` that asks the backend directly."""

    def sample(fields: Mapping[str, Any], parts: Any, on_progress: Any, *, patches: Any) -> tuple[Any, None]:
        assert patches is None, "weight patches are tested with a worker: test_weight_patches.py"
        job, arrived = over_the_wire(job_of(kind, fields), parts)

        def progress(step: int, of: int, preview: Callable[[], bytes | None]) -> None:
            report(step, of, preview)
            on_progress(step, of, preview())

        result = BACKEND.sample(job, arrived, progress).result
        _, back = over_the_wire(job, result)
        return back, None

    return sample


def both(this: Case) -> tuple[Any, Any]:
    """Return the stock latent, and the one from a whole run."""
    fields = settings(this.fields)
    known = ("denoise", "disable_noise", "start_step", "last_step", "force_full_denoise")
    with torch.inference_mode():
        (stock,) = nodes.common_ksampler(
            this.patch(SIDES.stock(this.kind)),
            fields["seed"],
            fields["steps"],
            fields["cfg"],
            fields["sampler"],
            fields["scheduler"],
            this.positive,
            this.negative,
            dict(this.latent),
            **{name: fields[name] for name in known if name in fields},
        )
        ours = run_whole_loop(
            sample_whole(this.kind),
            this.patch(SIDES.remote(this.kind)),
            fields,
            positive=this.positive,
            negative=this.negative,
            latent=this.latent,
        )
    return stock, ours


def node(kind: Any, **inputs: Any) -> Patch:
    """Return a patch by one of ComfyUI's own nodes."""
    made = kind()
    return lambda model: getattr(made, made.FUNCTION)(model, **inputs)[0]
