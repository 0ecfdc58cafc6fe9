"""A model of its true size: ComfyUI's own sampling on this machine's device, and a worker's beside it.

    COMFYUI_PYTHON benchmarks/real_model.py COMFYUI
    COMFYUI_PYTHON benchmarks/real_model.py COMFYUI --model flux --steps 20 --codec planes

Run with ComfyUI's own interpreter, where this package is importable. The weights are random, drawn on the device in
the shapes of the model, so nothing is downloaded; what a step costs does not depend on their values. The worker is
another process on the same device, reached over loopback: what a step takes longer than ComfyUI's own is what this
package costs before any network. Exit status 1 if a latent differs in a bit.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).parent))
import arguments
import comfy_gpu_offload
from comfy_gpu_offload.client.timings import CallTimings
from comfy_gpu_offload.codec_names import COMPRESSIONS
from comfy_gpu_offload.comfyui.installation import import_comfyui
from plots import bars, panels
from results import Bound, Results, Table, conclude

_COLUMNS = {
    "way": "way",
    "ms a step": "step_ms .1f",
    "of ComfyUI's own": "over_local .2f",
    "model ms": "compute_ms .1f",
    "all else ms": "rest_ms .1f",
    "KB up": "kb_up .1f",
    "KB down": "kb_down .1f",
    "equal": "equal",
}
_LISTENING = "listening on "
_SMALLEST_SCALE = 0.02


@dataclass(frozen=True)
class Kind:
    """A model, and what is sampled with it.

    Attributes:
        config: a class of `comfy.supported_models`.
        sizes: of its network, what that class does not say.
        newer: of those, what only newer releases know.
        channels, shrinks: of its latent: how many, and how many pixels a side each element stands for.
        tokens, width, pooled: of its conditioning.
    """

    config: str
    sizes: Mapping[str, Any]
    newer: Mapping[str, Any]
    channels: int
    tokens: int
    width: int
    pooled: int
    cfg: float
    shrinks: int = 8


KINDS = {
    # comfy.model_detection has these sizes for the files of either.
    "sdxl": Kind(
        "SDXL",
        {
            "image_size": 32,
            "in_channels": 4,
            "out_channels": 4,
            "model_channels": 320,
            "num_classes": "sequential",
            "num_res_blocks": [2, 2, 2],
            "channel_mult": [1, 2, 4],
            "transformer_depth": [0, 0, 2, 2, 10, 10],
            "transformer_depth_output": [0, 0, 0, 2, 2, 2, 10, 10, 10],
            "transformer_depth_middle": 10,
            "num_head_channels": 64,
            "use_spatial_transformer": True,
            "legacy": False,
        },
        {},
        channels=4,
        tokens=77,
        width=2048,
        pooled=1280,
        cfg=6.0,
    ),
    "flux": Kind(
        "Flux",
        {
            "in_channels": 16,
            "out_channels": 16,
            "vec_in_dim": 768,
            "context_in_dim": 4096,
            "hidden_size": 3072,
            "mlp_ratio": 4.0,
            "num_heads": 24,
            "depth": 19,
            "depth_single_blocks": 38,
            "axes_dim": [16, 56, 56],
            "theta": 10000,
            "patch_size": 2,
            "qkv_bias": True,
            "guidance_embed": True,
        },
        {"txt_ids_dims": []},
        channels=16,
        tokens=256,
        width=4096,
        pooled=768,
        cfg=1.0,
    ),
}


def main() -> int:
    """Print the table; exit status 1 if a latent differs."""
    parser = arguments.parser(__doc__, seed_of="weights and noise")
    parser.add_argument("comfyui", type=Path, help="a ComfyUI folder")
    parser.add_argument("--model", choices=KINDS, default="sdxl")
    parser.add_argument(
        "--size", type=arguments.positive, default=1024, help="of the picture's sides (default: %(default)s)"
    )
    parser.add_argument("--steps", type=arguments.positive, default=20)
    parser.add_argument("--sampler", default="euler")
    parser.add_argument("--codec", action="append", choices=COMPRESSIONS, help="repeat for more")
    options = parser.parse_args()
    import_comfyui.enter(options.comfyui, cpu=False)
    import utils.install_util  # noqa: F401, PLC0415  # before nodes, which puts a folder with a utils in front

    with tempfile.TemporaryDirectory() as folder:
        kind = KINDS[options.model]
        with torch.inference_mode():
            parameters = _write(kind, Path(folder), options.seed)
            rows = _measure(kind, Path(folder), options)
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else "CPU"
    what = f"{options.model}, {parameters / 1e9:.1f} billion parameters, {device}, torch {torch.__version__}"
    differing = sum(not row["equal"] for row in rows)
    return conclude(
        Results(
            "real_model",
            rows,
            [Table.of("", _COLUMNS, [_shown(row) for row in rows])],
            [Bound.at_most("latents that differ from ComfyUI's own in a bit", differing, 0, "d")],
            {"real_model": lambda: _drawn(rows, what)},
            [what],
        ),
        options,
    )


def _write(kind: Kind, folder: Path, seed: int) -> int:
    """Write the model's file; return the number of its parameters."""
    import comfy.supported_models  # noqa: PLC0415
    from safetensors.torch import save_file  # noqa: PLC0415

    made = getattr(comfy.supported_models, kind.config)
    dtype = made.supported_inference_dtypes[0]
    try:
        network = _network(made, {**kind.sizes, **kind.newer}, dtype)
    except TypeError:
        network = _network(made, kind.sizes, dtype)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    generator = torch.Generator(device).manual_seed(seed)
    weights = {}
    for key, meant in arguments.progress(network.state_dict().items(), desc="weights", unit="tensor"):
        drawn = torch.randn(meant.shape, generator=generator, device=device, dtype=torch.float32)
        if meant.dim() > 1:
            drawn *= (meant.numel() / meant.shape[0]) ** -0.5
        else:
            drawn = drawn * _SMALLEST_SCALE + (0 if key.endswith("bias") else 1)
        weights[key] = drawn.to(dtype).cpu()
    (folder / "diffusion_models").mkdir()
    save_file(weights, folder / "diffusion_models" / "model.safetensors")
    return sum(tensor.numel() for tensor in weights.values())


def _network(made: Any, sizes: Mapping[str, Any], dtype: torch.dtype) -> torch.nn.Module:
    config = made({**made.unet_config, **sizes})
    config.set_inference_dtype(dtype, None)
    network: torch.nn.Module = config.get_model({}, "", device="meta").diffusion_model
    return network


def _measure(kind: Kind, folder: Path, options: argparse.Namespace) -> list[dict[str, Any]]:
    import comfy.sd  # noqa: PLC0415

    from comfy_gpu_offload.comfyui.client.patcher import remote_patcher  # noqa: PLC0415
    from comfy_gpu_offload.comfyui.client.sampling.whole_loop import run_whole_loop  # noqa: PLC0415

    inputs = _inputs(kind, options)
    local = comfy.sd.load_diffusion_model(str(folder / "diffusion_models" / "model.safetensors"))
    expected, local_s = _timed(lambda: _sampled(local, inputs))
    rows = [_row("ComfyUI itself", options.steps, local_s, local_s, True)]
    with _worker(options.comfyui, folder) as url:
        for name in options.codec or ["none", "planes"]:
            with comfy_gpu_offload.connect(url, compression=name) as session:
                patcher = remote_patcher(session.model("model.safetensors"))
                found, took_s = _timed(lambda patcher=patcher: _sampled(patcher, inputs))
                timings = list(patcher.remote.timings)[-options.steps :]
                equal = torch.equal(found, expected)
                rows.append(_row(f"each step, {name}", options.steps, took_s, local_s, equal, timings=timings))

                def whole(patcher: Any = patcher) -> torch.Tensor:
                    fields = {name: inputs[name] for name in ("seed", "steps", "cfg", "denoise")}
                    fields |= {"sampler": inputs["sampler_name"], "scheduler": inputs["scheduler"]}
                    parts = {name: inputs[name] for name in ("positive", "negative", "latent")}
                    result: torch.Tensor = run_whole_loop(patcher.remote.sample, patcher, fields, **parts)[
                        "samples"
                    ]
                    return result

                found, took_s = _timed(whole)
                rows.append(
                    _row(f"whole loop, {name}", options.steps, took_s, local_s, torch.equal(found, expected))
                )
    return rows


def _inputs(kind: Kind, options: argparse.Namespace) -> dict[str, Any]:
    def condition(seed: int) -> list[Any]:
        generator = torch.Generator().manual_seed(seed)
        pooled = torch.randn(1, kind.pooled, generator=generator)
        return [[torch.randn(1, kind.tokens, kind.width, generator=generator), {"pooled_output": pooled}]]

    side = options.size // kind.shrinks
    return {
        "seed": options.seed,
        "steps": options.steps,
        "cfg": kind.cfg,
        "sampler_name": options.sampler,
        "scheduler": "normal",
        "positive": condition(1),
        "negative": condition(2),
        "latent": {"samples": torch.zeros(1, kind.channels, side, side)},
        "denoise": 1.0,
    }


def _sampled(model: Any, inputs: Mapping[str, Any]) -> torch.Tensor:
    import nodes  # noqa: PLC0415

    (found,) = nodes.common_ksampler(model, **inputs)
    samples: torch.Tensor = found["samples"]
    return samples


def _timed(run: Callable[[], torch.Tensor]) -> tuple[torch.Tensor, float]:
    """Return the second run's result and seconds: the first one loads and warms up."""
    run()
    started = perf_counter()
    result = run()
    return result, perf_counter() - started


@contextmanager
def _worker(comfyui: Path, folder: Path) -> Iterator[str]:
    """Yield the address of a worker process with that ComfyUI and folder of models, on a free port."""
    command = [sys.executable, "-m", "comfy_gpu_offload", "--log-level", "WARNING", "worker", "--port", "0"]
    command += ["--backend", "comfyui", "--comfyui", str(comfyui), "--models", str(folder)]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("COMFY_GPU_")}
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment)  # noqa: S603
    try:
        for line in process.stdout or ():
            if line.startswith(_LISTENING):
                yield line.removeprefix(_LISTENING).strip()
                break
        else:
            raise SystemExit("The worker did not start; what it said stands above.")
    finally:
        process.terminate()
        process.wait()


def _row(
    way: str, steps: int, took_s: float, local_s: float, equal: bool, *, timings: Sequence[CallTimings] = ()
) -> dict[str, Any]:
    total = sum(timings, CallTimings())
    calls = max(1, len(timings))
    return {
        "way": way,
        "step_ms": 1e3 * took_s / steps,
        "over_local": took_s / local_s,
        "compute_ms": 1e3 * total.compute_s / calls,
        "rest_ms": 1e3 * (total.total_s - total.compute_s) / calls,
        "kb_up": total.bytes_up / 1e3 / calls,
        "kb_down": total.bytes_down / 1e3 / calls,
        "equal": equal,
    }


def _shown(row: dict[str, Any]) -> dict[str, Any]:
    """Return a row for the table: figures that are not known are None."""
    known = {**row, "equal": "yes" if row["equal"] else "NO"}
    return {name: None if value == 0 else value for name, value in known.items()}


def _drawn(rows: list[dict[str, Any]], what: str) -> Any:
    figure, (axis,) = panels(1, 1, width=6)
    values = [row["step_ms"] for row in rows]
    bars(axis, [row["way"] for row in rows], values, labels=[f"{value:.1f}" for value in values])
    axis.set_xlabel("ms a step")
    axis.set_title(what)
    return figure


if __name__ == "__main__":
    sys.exit(main())
