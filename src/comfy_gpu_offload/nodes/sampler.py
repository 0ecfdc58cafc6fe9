"""The node Remote Sampler: a KSampler that can send the whole sampling loop to the worker."""

from __future__ import annotations

import importlib
from collections.abc import Iterator, Mapping
from time import perf_counter
from typing import Any

from comfy_api.v0_0_2 import io

from ..client.model_call import OnProgress
from ..client.remote_model import RemoteModel
from ..client.timings import CallTimings
from ..client.weight_patches import WeightPatches
from ..comfyui.client import node_lines
from ..comfyui.client.sampling import offload_mode as offloading
from ..comfyui.client.sampling.whole_loop import run_whole_loop
from ..config.settings import load_settings
from ..errors import OffloadError
from .inputs import StockInput


class RemoteSampler(io.ComfyNode):  # type: ignore[misc]  # ComfyUI is untyped
    """KSampler with a choice of where the loop runs."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Describe the node to ComfyUI."""
        schema = io.Schema(
            node_id="RemoteSampler",
            display_name="Remote Sampler",
            category="sampling/remote",
            description="Samples as KSampler does. With a model from Remote Model Loader, the network runs on the "
            "worker: each step's forward pass, or the whole loop as one job. Afterwards the node shows what "
            "crossed the wire and where the time went.",
            inputs=[
                *_ksampler_inputs(),
                StockInput(
                    "offload",
                    offloading.CHOICES,
                    {
                        "default": offloading.AUTO,
                        "tooltip": "How the work is divided. each step: the sampler runs here, and each forward "
                        "pass on the worker. whole loop: the sampler runs there too, and the run crosses the wire "
                        "once. auto: the faster of the two, or each step where a part of the run can only be done "
                        "here.",
                    },
                ),
            ],
            outputs=[io.Latent.Output(tooltip="The denoised latent.")],
            hidden=[io.Hidden.unique_id],
        )
        # ComfyUI 0.3.64 has no such field, and searches no aliases.
        schema.search_aliases = ["remote", "offload", "runpod", "ksampler", "sample"]
        return schema

    @classmethod
    def execute(cls, model: Any, offload: str = offloading.AUTO, **inputs: Any) -> Any:
        """Sample; `inputs` are KSampler's.

        Raises:
            OffloadError: `offload` is no choice, a setting is wrong, or the worker failed.
        """
        if offload not in offloading.CHOICES:
            raise OffloadError(f"offload {offload!r}: there are {', '.join(offloading.CHOICES)}.")
        node_id = cls.hidden.unique_id
        remote = getattr(model, "remote", None)
        if remote is None:
            return _here(model, inputs, node_id)
        # All settings now: one that is wrong must not cost a run that is done.
        gpu_rate = load_settings().gpu_rate
        run = _Run(model, remote, inputs)
        with node_lines.line("asking the worker …", node_id, run.so_far) as line:
            started = perf_counter()
            mode = offloading.WHOLE_LOOP if offloading.runs_whole(model, offload, inputs) else offloading.EACH_STEP
            node_lines.announce(f"{mode}: sampling on the worker …")
            latent = run.whole() if mode == offloading.WHOLE_LOOP else run.each()
            line.result = summary(mode, run.timings, perf_counter() - started, gpu_rate)
        return latent


def _ksampler_inputs() -> Iterator[StockInput]:
    """Yield KSampler's inputs as this ComfyUI has them."""
    groups = importlib.import_module("nodes").KSampler.INPUT_TYPES()
    for group in ("required", "optional"):
        for name, (kind, *options) in groups.get(group, {}).items():
            yield StockInput(name, kind, options[0] if options else {}, optional=group == "optional")


def _here(model: Any, inputs: Mapping[str, Any], node_id: str | None) -> Any:
    with node_lines.line("sampling on this machine …", node_id) as line:
        line.result = "on this machine"
        return importlib.import_module("nodes").KSampler().sample(model, **inputs)


class _Run:
    """One run of the sampler with a model at the worker.

    Attributes:
        timings: of its calls, once it is done.
    """

    def __init__(self, model: Any, remote: RemoteModel, inputs: Mapping[str, Any]) -> None:
        self._model = model
        self._remote = remote
        self._inputs = inputs
        self._calls_before = remote.calls
        self._step = 0
        self.timings: list[CallTimings] = []

    def so_far(self) -> str:
        """Return how far it has come, for the line of a run that did not end well."""
        if self._step:
            return f"at step {self._step} of {self._inputs['steps']}"
        calls = self._remote.calls - self._calls_before
        return f"after {_counted(calls)}" if calls else ""

    def each(self) -> Any:
        """Sample here, with a call at each step."""
        latent = importlib.import_module("nodes").KSampler().sample(self._model, **self._inputs)
        self.timings = self._remote.timings_since(self._calls_before)
        return latent

    def whole(self) -> Any:
        """Sample at the worker, as one job."""
        latent = run_whole_loop(
            self._sample,
            self._model,
            _fields(self._inputs),
            positive=self._inputs["positive"],
            negative=self._inputs["negative"],
            latent=self._inputs["latent_image"],
        )
        return (latent,)

    def _sample(
        self, fields: Mapping[str, Any], job: Any, on_progress: OnProgress, *, patches: WeightPatches | None
    ) -> tuple[Any, CallTimings]:
        def progressed(step: int, of: int, picture: bytes | None) -> None:
            self._step = max(self._step, step)
            on_progress(step, of, picture)

        result, timing = self._remote.sample(fields, job, progressed, patches=patches)
        self.timings = [timing]
        return result, timing


def _fields(inputs: Mapping[str, Any]) -> dict[str, Any]:
    """Return the fields of a `SampleJob` for KSampler's inputs."""
    return {
        **{name: inputs[name] for name in ("seed", "steps", "scheduler")},
        "sampler": inputs["sampler_name"],
        "cfg": float(inputs["cfg"]),
        "denoise": inputs.get("denoise", 1.0),
    }


def summary(mode: str, timings: list[CallTimings], seconds: float, gpu_rate: float) -> str:
    """Return how a run went: what crossed the wire, where the time went, what that cost.

    Args:
        seconds: of the whole run, as its user waited for it.
        gpu_rate: dollars a second.
    """
    total = sum(timings, CallTimings())
    times = {
        "compute": total.compute_s,
        "transfer": total.transfer_s,
        "loading": total.load_s,
        "waiting": total.queue_s + total.waited_s,
    }
    # The first two are there in every run; of the others only what can be read.
    said = [f"{name} {s:.1f}" for name, s in times.items() if s >= 0.05 or name in {"compute", "transfer"}]
    crossed = f"↑{total.bytes_up / 1e6:.2f} ↓{total.bytes_down / 1e6:.2f} MB"
    cost = f"\n≈ ${gpu_rate * seconds:.4f} without idle time" if gpu_rate else ""
    return f"{mode}: {_counted(total.exchanges)}, {crossed}\n{', '.join(said)} s{cost}"


def _counted(calls: int) -> str:
    return f"{calls} call{'' if calls == 1 else 's'}"
