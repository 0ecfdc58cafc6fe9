"""Sample small models of every architecture with every feature, by ComfyUI itself and by the worker.

    PYTHON run.py COMFYUI_ROOT [ARCHITECTURE | ARCHITECTURE:FEATURE ...]

All of it in this process, with real weights files, a worker's handler, and a session with it. Prints a line of JSON
for each architecture, and one with every architecture that this ComfyUI knows.
"""

from __future__ import annotations

import json
import sys
import traceback
from collections.abc import Callable, Iterator
from typing import Any

# First: it makes ComfyUI importable.
from worker import Pair, load, release

import comfy.supported_models  # isort: skip
import nodes  # isort: skip
import torch  # isort: skip
from architecture import Architecture  # isort: skip
from architectures import ALL, LEFT_OUT  # isort: skip
from features import FEATURES, Feature, Run, own_features, plain  # isort: skip
from small_models import NotHereError  # isort: skip

from comfy_gpu_offload.comfyui.client.sampling.whole_loop import run_whole_loop
from comfy_gpu_offload.errors import OffloadError

STEPS, SEED, CFG = 2, 5, 4.0
_SAID = 400


def stock(pair: Pair, run: Run, model: Any = None) -> Any:
    """Return the latent of `common_ksampler`."""
    with torch.inference_mode():
        (out,) = nodes.common_ksampler(
            run.patch(pair.stock if model is None else model),
            SEED,
            STEPS,
            run.fields.get("cfg", CFG),
            "euler",
            "normal",
            run.positive,
            run.negative,
            dict(run.latent),
            **{name: value for name, value in run.fields.items() if name != "cfg"},
        )
    return out["samples"]


def each_step(pair: Pair, run: Run) -> Any:
    """Return the latent of `common_ksampler` with the remote model."""
    return stock(pair, run, pair.remote)


def whole_loop(pair: Pair, run: Run) -> Any:
    """Return the latent of the whole run at the worker."""
    fields = {"sampler": "euler", "scheduler": "normal", "seed": SEED, "steps": STEPS, "cfg": CFG, "denoise": 1.0}
    with torch.inference_mode():
        model = run.patch(pair.remote)
        out = run_whole_loop(
            model.remote.sample,
            model,
            {**fields, **run.fields},
            positive=run.positive,
            negative=run.negative,
            latent=run.latent,
        )
    return out["samples"]


WAYS: dict[str, Callable[[Pair, Run], Any]] = {"each step": each_step, "whole loop": whole_loop}


def parts(samples: Any) -> list[torch.Tensor]:
    return [samples] if isinstance(samples, torch.Tensor) else list(samples.tensors)


def identical(mine: Any, theirs: Any) -> bool:
    return all(
        one.dtype == other.dtype and torch.equal(one, other)
        for one, other in zip(parts(mine), parts(theirs), strict=True)
    )


def error_of(mine: Any, theirs: Any) -> float:
    """Return the greatest difference of a value, divided by the standard deviation of all."""
    return max(
        float((one.double() - other.double()).abs().max() / other.double().std())
        for one, other in zip(parts(mine), parts(theirs), strict=True)
    )


def outcome(way: Callable[[Pair, Run], Any], pair: Pair, run: Run, expected: Any) -> str:
    """Return `identical`, `within N`, `refused: WHY` or `failed: WHY`."""
    try:
        found = way(pair, run)
    except OffloadError as error:
        return f"refused: {type(error).__name__}: {error}"[:_SAID]
    except Exception as error:
        return f"failed: {said(error)}"
    return "identical" if identical(found, expected) else f"within {error_of(found, expected):.2g}"


def examine(feature: Feature, architecture: Architecture, pair: Pair, reference: Any) -> dict[str, str]:
    """Return the outcome each way; one entry `none` or `stock` where there is nothing to compare."""
    run = feature.make(architecture)
    if run is None:
        return {"none": ""}
    try:
        expected = stock(pair, run)
    except Exception as error:
        return {"stock": said(error)}
    if not all(bool(part.isfinite().all()) and float(part.std()) > 0.01 for part in parts(expected)):
        return {"stock": "no finite picture"}
    if feature.matters and shapes(expected) == shapes(reference) and identical(expected, reference):
        return {"stock": "no effect"}
    found = {}
    for name, way in WAYS.items():
        again = feature.make(architecture)
        assert again is not None
        found[name] = outcome(way, pair, again, expected)
    return found


def said(error: Exception) -> str:
    """Return an error with the place where it was raised, for whoever runs this."""
    where = traceback.extract_tb(error.__traceback__)[-1]
    return f"{type(error).__name__}: {error} ({where.filename}:{where.lineno})"[:_SAID]


def shapes(samples: Any) -> list[torch.Size]:
    return [part.shape for part in parts(samples)]


def features_of(architecture: Architecture, only: str | None) -> Iterator[tuple[str, Feature]]:
    for kind, features in (("common", FEATURES), ("own", own_features(architecture))):
        for feature in features:
            if only is None or feature.name in {only, "KSampler"}:
                yield kind, feature


def row(architecture: Architecture, only: str | None) -> dict[str, Any]:
    """Return an architecture's row on the page."""
    try:
        pair = load(architecture.model)
    except NotHereError as error:
        return {"architecture": architecture.name, "absent": str(error)}
    except OffloadError as error:
        return {"architecture": architecture.name, "refused": f"{type(error).__name__}: {error}"[:_SAID]}
    except Exception as error:
        return {"architecture": architecture.name, "failed": said(error)}
    found: dict[str, Any] = {
        "architecture": architecture.name,
        "media": architecture.media,
        "common": {},
        "own": {},
    }
    found["parameters"] = sum(tensor.numel() for tensor in pair.stock.model.diffusion_model.state_dict().values())
    try:
        reference = stock(pair, plain(architecture))
    except Exception as error:
        return {"architecture": architecture.name, "failed": said(error)}
    for kind, feature in features_of(architecture, only):
        found[kind][feature.name] = examine(feature, architecture, pair, reference)
    return found


def main() -> None:
    wanted = [argument.partition(":") for argument in sys.argv[2:]]
    named = {name: only or None for name, _, only in wanted}
    for architecture in ALL:
        if not named or architecture.name in named:
            print(json.dumps(row(architecture, named.get(architecture.name))), flush=True)
            release(architecture.model)
    known = [kind.__name__ for kind in comfy.supported_models.models]
    print(json.dumps({"known": known, "left out": LEFT_OUT}))


if __name__ == "__main__":
    main()
