"""A run goes to the worker that the settings name when it begins, and to no other."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from time import monotonic, sleep

import pytest

from .harness.installation import Installation
from .harness.proxy import Proxy
from .harness.site import Worker
from .harness.workflow import DIGITS, Sampling, Scene
from .test_control_nets import TINY, at_worker, one

pytestmark = pytest.mark.comfyui


@pytest.fixture
def ways(worker: Worker) -> Iterator[tuple[Proxy, Proxy]]:
    """Give two addresses of a worker."""
    with ExitStack() as ending:
        first, second = (Proxy(("127.0.0.1", worker.port)) for _ in range(2))
        ending.callback(first.close)
        ending.callback(second.close)
        yield first, second


def name(installation: Installation, proxy: Proxy, worker: Worker, **further: str) -> None:
    """Write the settings for that way to the worker."""
    installation.configure(COMFY_GPU_OFFLOAD_URL=proxy.url, COMFY_GPU_OFFLOAD_TOKEN=worker.token, **further)


def sampled(node: str = "KSampler", seed: int = 5) -> Scene:
    scene = Scene.of(DIGITS)
    scene.sample(node, scene.workflow.remote(DIGITS.file), Sampling(seed=seed), "moved")
    return scene


def test_a_run_follows_the_address(installation: Installation, worker: Worker, ways: tuple[Proxy, Proxy]) -> None:
    first, second = ways
    graph = sampled().workflow.graph
    name(installation, first, worker)
    installation.comfyui.run(graph)
    assert first.exchanges("forward")

    name(installation, second, worker)
    first.forget()
    installation.comfyui.run(graph)
    assert (len(first.exchanges("forward")), first.exchanges("hello")) == (0, [])
    assert second.exchanges("forward")
    deadline = monotonic() + 60
    while first.connections:
        assert monotonic() < deadline, "the connections to an address that is no longer configured stay open"
        sleep(0.02)

    name(installation, first, worker)
    second.forget()
    installation.comfyui.run(graph)
    assert first.exchanges("forward")
    assert not second.exchanges("forward")


def test_a_run_does_not_need_the_worker_of_before(
    installation: Installation, worker: Worker, ways: tuple[Proxy, Proxy]
) -> None:
    first, second = ways
    graph = sampled(seed=6).workflow.graph
    name(installation, first, worker)
    installation.comfyui.run(graph)
    first.close()
    name(installation, second, worker)
    installation.comfyui.run(graph)
    assert second.exchanges("forward")


def test_a_control_net_follows_too(installation: Installation, worker: Worker, ways: tuple[Proxy, Proxy]) -> None:
    first, second = ways
    scene = Scene.of(TINY)
    one(scene, at_worker)
    scene.sample("KSampler", scene.workflow.remote(TINY.file), Sampling(seed=11), "moved")
    graph = scene.workflow.graph
    name(installation, first, worker)
    installation.comfyui.run(graph)
    first.close()
    name(installation, second, worker)
    installation.comfyui.run(graph)
    assert second.exchanges("forward")


def test_another_token_is_used(installation: Installation, worker: Worker, ways: tuple[Proxy, Proxy]) -> None:
    first, _ = ways
    graph = sampled(seed=7).workflow.graph
    name(installation, first, worker)
    installation.comfyui.run(graph)
    installation.configure(
        COMFY_GPU_OFFLOAD_URL=first.url, COMFY_GPU_OFFLOAD_TOKEN="another-token-than-before-123456"
    )
    refused = installation.comfyui.api.run(graph)
    assert "COMFY_GPU_OFFLOAD_TOKEN" in refused.error_message
    name(installation, first, worker)
    installation.comfyui.run(graph)


@pytest.mark.parametrize("sampler", ["KSampler", "RemoteSampler"])
def test_without_a_worker_in_the_settings_a_run_fails(
    installation: Installation, worker: Worker, ways: tuple[Proxy, Proxy], sampler: str
) -> None:
    first, _ = ways
    graph = sampled(sampler, seed=8).workflow.graph
    name(installation, first, worker)
    installation.comfyui.run(graph)
    installation.configure()
    failed = installation.comfyui.api.run(graph)
    assert "COMFY_GPU_OFFLOAD_URL" in failed.error_message
    name(installation, first, worker)
    installation.comfyui.run(graph)


def test_a_wrong_setting_fails_the_run_by_its_name(
    installation: Installation, worker: Worker, ways: tuple[Proxy, Proxy]
) -> None:
    first, _ = ways
    graph = sampled(seed=9).workflow.graph
    name(installation, first, worker)
    installation.comfyui.run(graph)
    name(installation, first, worker, COMFY_GPU_OFFLOAD_RETRY_S="soon")
    failed = installation.comfyui.api.run(graph)
    assert "COMFY_GPU_OFFLOAD_RETRY_S" in failed.error_message


def test_a_price_loads_nothing_again(installation: Installation, worker: Worker, ways: tuple[Proxy, Proxy]) -> None:
    first, _ = ways
    graph = sampled(seed=10).workflow.graph
    name(installation, first, worker)
    installation.comfyui.run(graph)
    first.forget()
    name(installation, first, worker, COMFY_GPU_OFFLOAD_GPU_RATE="0.0003")
    installation.comfyui.run(graph)
    assert first.exchanges("hello") == []
