"""A worker that goes away in the middle of a run and comes back."""

from collections.abc import Callable

import pytest

from .harness.comparison import assert_identical
from .harness.proxy import Exchange
from .harness.site import Site
from .harness.workflow import WAN, Model, Sampling, Scene

pytestmark = pytest.mark.comfyui


def test_a_worker_killed_between_two_steps_costs_a_resend(site: Site, listed: Callable[[Model], str]) -> None:
    scene = Scene.of(WAN, seed=130)
    sampling = Sampling(seed=130, steps=5)
    scene.sample("KSampler", scene.workflow.local(WAN), sampling, "stock")
    scene.sample("KSampler", scene.workflow.remote(listed(WAN)), sampling, "ours")
    started = len(site.worker.processes)

    def restart_at_the_third_call(exchange: Exchange) -> None:
        calls = len(site.proxy.exchanges("forward"))
        if exchange.route == "forward" and calls == 3 and len(site.worker.processes) == started:
            site.worker.process.kill()
            site.worker.begin()

    site.proxy.forget()
    with site.proxy.watching(restart_at_the_third_call):
        site.comfyui.run(scene.workflow.graph)
    assert len(site.worker.processes) == started + 1
    assert_identical(site.comfyui.saved("stock"), site.comfyui.saved("ours"))
    sizes = [exchange.up_bytes for exchange in site.proxy.exchanges("forward")]
    conditioning = 2 * WAN.tokens * WAN.width * 2
    assert sum(size > conditioning for size in sizes) == 2, f"conditioning crosses once a worker: {sizes}"
