"""Comparisons of remote with local latents, bit for bit."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from itertools import combinations

import torch

from .proxy import Proxy
from .site import ComfyUI
from .workflow import Link, Sampling, Scene, Workflow

Patch = Callable[[Workflow, Link], Link]
# By node: what the stock loader and KSampler give, and the two ways to have it from a worker.
_WAYS = {
    "stock": ("local", "KSampler"),
    "Remote Model Loader -> KSampler": ("remote", "KSampler"),
    "Remote Model Loader -> Remote Sampler": ("remote", "RemoteSampler"),
}


def unpatched(_: Workflow, model: Link) -> Link:
    return model


def assert_remote_equals_local(
    comfyui: ComfyUI,
    scene: Scene,
    listed: str,
    samplings: Mapping[str, Sampling],
    patch: Patch = unpatched,
    weight_dtype: str = "default",
) -> dict[str, torch.Tensor]:
    """Sample in one prompt, each way; return the stock latents by the names of `samplings`."""
    workflow = scene.workflow
    models = {
        "local": patch(workflow, workflow.local(scene.model, weight_dtype)),
        "remote": patch(workflow, workflow.remote(listed, weight_dtype=weight_dtype)),
    }
    for name, sampling in samplings.items():
        for number, (model, node) in enumerate(_WAYS.values()):
            scene.sample(node, models[model], sampling, f"{name}-{number}")
    comfyui.run(workflow.graph)
    latents = {name: [comfyui.saved(f"{name}-{number}") for number in range(len(_WAYS))] for name in samplings}
    differing = [
        f"{name}, {way}: {_difference(results[0], result)}"
        for name, results in latents.items()
        for way, result in zip(_WAYS, results, strict=True)
        if not torch.equal(results[0], result)
    ]
    assert not differing, "\n".join(differing)
    stock = {name: results[0] for name, results in latents.items()}
    assert_worth_comparing(stock, samplings)
    return stock


def assert_whole_is_stock(
    comfyui: ComfyUI,
    proxy: Proxy,
    scene: Scene,
    listed: str,
    samplings: tuple[Sampling, ...] = (Sampling(steps=4),),
    patch: Patch = unpatched,
    weight_dtype: str = "default",
) -> dict[str, torch.Tensor]:
    """Check bit for bit, with one job a run and no call of a step; return the stock latents by number."""
    workflow = scene.workflow
    local = patch(workflow, workflow.local(scene.model, weight_dtype))
    remote = patch(workflow, workflow.remote(listed, weight_dtype=weight_dtype))
    for number, sampling in enumerate(samplings):
        scene.sample("KSampler", local, sampling, f"stock-{number}")
        scene.sample("RemoteSampler", remote, sampling, f"whole-{number}", offload="whole loop")
    proxy.forget()
    comfyui.run(workflow.graph)
    assert (len(proxy.exchanges("sample")), len(proxy.exchanges("forward"))) == (len(samplings), 0)
    stock = {str(number): comfyui.saved(f"stock-{number}") for number in range(len(samplings))}
    for number, latent in stock.items():
        assert_identical(latent, comfyui.saved(f"whole-{number}"))
    assert_worth_comparing(stock, {str(number): sampling for number, sampling in enumerate(samplings)})
    return stock


def assert_identical(expected: torch.Tensor, actual: torch.Tensor) -> None:
    """Check that two latents are equal bit for bit."""
    assert torch.equal(expected, actual), _difference(expected, actual)


def assert_worth_comparing(latents: Mapping[str, torch.Tensor], samplings: Mapping[str, Sampling]) -> None:
    """Check that latents are finite, not constant, not their noise, and all different."""
    for name, latent in latents.items():
        assert latent.isfinite().all(), name
        assert latent.std() > 0.1, name
        noise = torch.randn(latent.shape, generator=torch.Generator().manual_seed(samplings[name].seed))
        correlation = torch.corrcoef(torch.stack([noise.flatten(), latent.flatten()]))[0, 1]
        assert correlation < 0.99, f"{name} is little more than its noise"
    for (name, latent), (other_name, other) in combinations(latents.items(), 2):
        assert not torch.allclose(latent, other, atol=1e-2), f"{name} and {other_name} are alike"


def _difference(expected: torch.Tensor, actual: torch.Tensor) -> str:
    if expected.shape != actual.shape or expected.dtype != actual.dtype:
        return f"{actual.dtype} {tuple(actual.shape)} in place of {expected.dtype} {tuple(expected.shape)}"
    return f"off by up to {(expected - actual).abs().max().item():.3g}"
