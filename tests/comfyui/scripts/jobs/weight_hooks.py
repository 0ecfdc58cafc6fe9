"""Hooks on weights (LoRA schedules), made by ComfyUI's own nodes, here and at the worker."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import comfy.hooks
import comfy.model_patcher
import comfy.utils
import torch
from comfy_extras import nodes_hooks
from sessions import Pair, sampled
from sides import FOLDER, MMDIT, Case, Kind, Patch, condition
from weight_dtypes import WEIGHTS, loras, switched

_STEPS = 6
OTHER = replace(MMDIT, file="mmdit-other.safetensors")


def by(kind: Any, **inputs: Any) -> Any:
    """Return a node's output."""
    made = kind()
    out = getattr(made, made.FUNCTION)(**inputs)
    return out[0] if len(out) == 1 else out


def file_of(name: str) -> dict[str, torch.Tensor]:
    weights: dict[str, torch.Tensor] = comfy.utils.load_torch_file(
        str(FOLDER / "loras" / f"{name}.safetensors"), safe_load=True
    )
    return weights


def hook(name: str, strength: float, keyframes: Any = None) -> Any:
    """Return a hook as Create Hook LoRA and Set Hook Keyframes make it."""
    hooks = comfy.hooks.create_hook_lora(file_of(name), strength, 0.0)
    return by(nodes_hooks.SetHookKeyframes, hooks=hooks, hook_kf=keyframes)


def odd_hook(strength: float, keyframes: Any) -> Any:
    """Return a hook of a LoRA of rank 3, whose scale, 2/3, is no float32."""
    weights = file_of("kind-lora")
    for key in weights:
        if "lora_up" in key:
            weights[key] = weights[key][:, :3].contiguous()
        elif "lora_down" in key:
            weights[key] = weights[key][:3].contiguous()
        elif "alpha" in key:
            weights[key] = torch.tensor(2.0)
    hooks = comfy.hooks.create_hook_lora(weights, strength, 0.0)
    return by(nodes_hooks.SetHookKeyframes, hooks=hooks, hook_kf=keyframes)


def keyframes(*at: tuple[float, float]) -> Any:
    """Return keyframes of pairs of a start and a strength."""
    made = None
    for start, strength in at:
        made = by(nodes_hooks.CreateHookKeyframe, strength_mult=strength, start_percent=start, prev_hook_kf=made)
    return made


def interpolated(first: float, last: float, count: int = 5) -> Any:
    """Return interpolated keyframes, whose strengths ComfyUI has as tensors."""
    return by(
        nodes_hooks.CreateHookKeyframesInterpolated,
        strength_start=first,
        strength_end=last,
        interpolation="ease_in_out",
        start_percent=0.0,
        end_percent=0.9,
        keyframes_count=count,
    )


def _mask(upper: bool) -> torch.Tensor:
    mask = torch.zeros(1, 64, 48)
    mask[:, :32] = 1.0
    return mask if upper else 1.0 - mask


def _props(cond: list[Any], **further: Any) -> list[Any]:
    return by(
        nodes_hooks.ConditioningSetProperties, cond_NEW=cond, strength=1.0, set_cond_area="default", **further
    )


def both_sides(hooks: Any) -> tuple[Any, Any]:
    return _props([condition(MMDIT, 10)], hooks=hooks), _props([condition(MMDIT, 20)], hooks=hooks)


def one_side(hooks: Any) -> tuple[Any, Any]:
    return _props([condition(MMDIT, 10)], hooks=hooks), [condition(MMDIT, 20)]


def two_regions(first: Any, second: Any) -> tuple[Any, Any]:
    positive = _props([condition(MMDIT, 10)], hooks=first, mask=_mask(True))
    negative = [condition(MMDIT, 20)]
    return by(
        nodes_hooks.PairConditioningSetPropertiesAndCombine,
        positive=positive,
        negative=negative,
        positive_NEW=[condition(MMDIT, 30)],
        negative_NEW=[condition(MMDIT, 40)],
        strength=0.9,
        set_cond_area="default",
        hooks=second,
        mask=_mask(False),
    )


def default_and_times(hooks: Any, other: Any) -> tuple[Any, Any]:
    timed = _props([condition(MMDIT, 10)], hooks=hooks, mask=_mask(True), timesteps=(0.0, 0.5))
    return by(
        nodes_hooks.PairConditioningSetDefaultAndCombine,
        positive=timed,
        negative=[condition(MMDIT, 20)],
        positive_DEFAULT=[condition(MMDIT, 30)],
        negative_DEFAULT=[condition(MMDIT, 40)],
        hooks=other,
    )


def combined(*hooks: Any) -> Any:
    return by(nodes_hooks.CombineHooks, **dict(zip(("hooks_A", "hooks_B"), hooks, strict=True)))


def model_as_lora(strength: float) -> Any:
    """Return a hook as Create Hook Model as LoRA makes it, of another model of the same form."""
    weights = comfy.hooks.get_patch_weights_from_model(Pair.of(OTHER).stock)
    hooks = comfy.hooks.create_hook_model_as_lora(weights, None, strength, 0.0)
    return by(nodes_hooks.SetHookKeyframes, hooks=hooks, hook_kf=keyframes((0.0, 1.0), (0.5, 0.4)))


def shared_keyframes() -> tuple[Any, Any]:
    """Return two groups with the keyframes of one, for which ComfyUI takes the other's weights."""
    first = hook("kind-lora", 1.0, keyframes((0.0, 1.0), (0.4, 0.3)))
    second = hook("kind-lora-2", 1.0)
    second.hooks[0].hook_keyframe = first.hooks[0].hook_keyframe
    return two_regions(first, second)


def two_schedules() -> tuple[Any, Any]:
    """Return two copies of one hook, which ComfyUI takes for the same, with other weights."""
    made = comfy.hooks.create_hook_lora(file_of("kind-lora"), 1.0, 0.0)
    schedules = (keyframes((0.0, 1.0), (0.4, 0.3)), interpolated(0.2, 1.0))
    return two_regions(*(by(nodes_hooks.SetHookKeyframes, hooks=made, hook_kf=each) for each in schedules))


# Where it matters that weights are rounded twice.
_ROUNDED = ("without", "keyframes", "two regions with keyframes", "over a LoRA", "a model as LoRA over a LoRA")
STEPPED = ((0.0, 1.0), (0.3, 0.5), (0.6, 0.0))


@dataclass(frozen=True)
class Hooked:
    """Conditioning with hooks, made anew for each run, and further patches of the model."""

    make: Callable[[], tuple[Any, Any]]
    patch: Patch = lambda model: model


def every() -> dict[str, Hooked]:
    return {
        "without": Hooked(lambda: ([condition(MMDIT, 10)], [condition(MMDIT, 20)])),
        "both sides": Hooked(lambda: both_sides(hook("kind-lora", 0.8))),
        "keyframes": Hooked(lambda: both_sides(hook("kind-lora", 0.8, keyframes(*STEPPED)))),
        "one side": Hooked(lambda: one_side(hook("kind-lora", 0.8, keyframes(*STEPPED)))),
        "late": Hooked(lambda: one_side(hook("kind-lora", 1.0, keyframes((0.0, 0.0), (0.5, 0.7))))),
        "every kind": Hooked(lambda: one_side(combined(hook("kind-dora", 0.8), hook("kind-lokr", -0.5)))),
        "two regions": Hooked(lambda: two_regions(hook("kind-lora", 0.8), hook("kind-lora-2", 0.6))),
        "two regions of one file": Hooked(lambda: two_regions(hook("kind-lora", 0.8), hook("kind-lora", 0.2))),
        "two regions with keyframes": Hooked(
            lambda: two_regions(
                hook("kind-lora", 0.8, keyframes(*STEPPED)),
                hook("kind-lora-2", 0.6, keyframes((0.0, 0.2), (0.5, 1.3))),
            )
        ),
        "shared keyframes": Hooked(shared_keyframes),
        "two schedules": Hooked(two_schedules),
        "two in one group": Hooked(
            lambda: one_side(
                combined(
                    hook("kind-lora", 1.0, keyframes((0.0, 0.5), (0.4, 1.0))),
                    hook("kind-lora-2", 0.5, keyframes((0.0, 1.0), (0.4, 2.0))),
                )
            )
        ),
        "interpolated": Hooked(lambda: one_side(odd_hook(0.9, interpolated(1.0, 0.2)))),
        "over a LoRA": Hooked(
            lambda: one_side(hook("kind-lora", 0.8, keyframes(*STEPPED))), loras(("kind-lora-2", 0.7))
        ),
        "default and times": Hooked(lambda: default_and_times(hook("kind-lora", 0.8), hook("kind-lora-2", 0.6))),
        "a model as LoRA": Hooked(lambda: one_side(model_as_lora(0.6))),
        "a model as LoRA over a LoRA": Hooked(lambda: one_side(model_as_lora(0.6)), loras(("kind-lora", 0.7))),
    }


@contextmanager
def _computed() -> Iterator[dict[str, int]]:
    """Count the weights that hooks change: computed, and taken from those that were kept."""
    kind = comfy.model_patcher.ModelPatcher
    names = {"patch_hook_weight_to_device": "computed", "patch_cached_hook_weights": "kept"}
    count = dict.fromkeys(names.values(), 0)
    own = {name: getattr(kind, name) for name in names}
    for name, what in names.items():

        def counting(*args: Any, name: str = name, what: str = what, **kwargs: Any) -> Any:
            count[what] += 1
            return own[name](*args, **kwargs)

        setattr(kind, name, counting)
    try:
        yield count
    finally:
        for name, method in own.items():
            setattr(kind, name, method)


def case_of(hooked: Hooked, steps: int = _STEPS) -> Case:
    positive, negative = hooked.make()
    latent = {"samples": torch.zeros(MMDIT.latent)}
    return Case(MMDIT, latent, positive, negative, fields={"steps": steps, "sampler": "euler"})


def compare(pair: Pair, hooked: Hooked) -> dict[str, Any]:
    with _computed() as here:
        expected = sampled(hooked.patch(pair.stock), case_of(hooked))
    before = pair.remote.remote.calls
    with _computed() as there:
        found = sampled(hooked.patch(pair.remote), case_of(hooked))
    return {
        "same": torch.equal(expected, found),
        "finite": bool(expected.isfinite().all()),
        "first": [float(value) for value in expected.flatten()[:4]],
        "here": here,
        "there": there,
        "bytes": [timings.bytes_up for timings in pair.remote.remote.timings_since(before)],
    }


def weight_hooks() -> dict[str, Any]:
    """Compare the ways to use hooks, on weights of each dtype."""
    found = {"float32": _of(Pair.of(MMDIT), every())}
    rounded = {name: hooked for name, hooked in every().items() if name in _ROUNDED}
    for name, (file, weight_dtype, switch) in WEIGHTS.items():
        with switched(switch):
            pair = Pair.of(Kind(file, MMDIT.latent, MMDIT.width, MMDIT.pooled), weight_dtype)
        found[name] = _of(pair, rounded)
    return found


def _of(pair: Pair, ways: dict[str, Hooked]) -> dict[str, Any]:
    return {name: compare(pair, hooked) for name, hooked in ways.items()}
