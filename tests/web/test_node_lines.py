"""The lines under nodes, and the first text of a failed run, are right at all times, wherever the node is."""

from __future__ import annotations

import threading
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest
from tests.comfyui.harness.installation import Installation
from tests.comfyui.harness.proxy import Exchange, Proxy
from tests.comfyui.harness.site import Worker
from tests.comfyui.harness.workflow import DIGITS, Sampling, Scene

from .harness.screen import Screen

pytestmark = [pytest.mark.comfyui, pytest.mark.shared_page]

LOADER, SAMPLER = 4, 5  # the nodes' ids in `scene`
_SUBGRAPH = """ids => {
    const graph = window.app.canvas.graph;
    return Number(graph.convertToSubgraph(new Set(ids.map((id) => graph.getNodeById(id)))).node.id);
}"""
_BROKEN_WORDS = r"""() => {
    const broken = [];
    for (const element of document.querySelectorAll(".comfy-gpu-offload-line")) {
        const node = element.firstChild;
        for (const word of node.data.matchAll(/\S+/g)) {
            const range = document.createRange();
            range.setStart(node, word.index);
            range.setEnd(node, word.index + word[0].length);
            if (range.getClientRects().length > 1) broken.push(word[0]);
        }
    }
    return broken;
}"""


@pytest.fixture
def proxy(installation: Installation, worker: Worker) -> Iterator[Proxy]:
    """Between ComfyUI and the worker."""
    proxy = Proxy(("127.0.0.1", worker.port))
    configure(installation, proxy, worker)
    yield proxy
    proxy.close()


def configure(installation: Installation, proxy: Proxy, worker: Worker, **further: str) -> None:
    installation.configure(COMFY_GPU_OFFLOAD_URL=proxy.url, COMFY_GPU_OFFLOAD_TOKEN=worker.token, **further)


def scene(screen: Screen, seed: int, node: str = "RemoteSampler", offload: str = "each step") -> None:
    """Open a page with a workflow that samples the digits model."""
    made = Scene.of(DIGITS, seed=seed)
    model = made.workflow.remote("digits.safetensors")
    made.sample(node, model, Sampling(seed=seed), "lines", offload)
    screen.open()
    load(screen, made)


def load(screen: Screen, made: Scene) -> None:
    screen.page.evaluate("graph => window.app.loadApiJson(graph, 'lines')", made.workflow.graph)
    # Prompts leave it to the frontend, which may give all of them one id: lines of another test would be shown.
    screen.page.evaluate("id => { window.app.graph.id = id }", str(uuid.uuid4()))
    screen.wait(lambda: screen.values(LOADER)["model_name"] == "digits.safetensors", "the workflow is open")
    screen.set(SAMPLER, "control_after_generate", "fixed")
    for other in (1, 2, 3):
        screen.set(other, "control_after_generate", "fixed")


def said(screen: Screen, node: int, text: str) -> Callable[[], bool]:
    return lambda: text in (screen.line(node) or "")


@contextmanager
def stuck(proxy: Proxy, route: str, number: int) -> Iterator[None]:
    """Keep back that request of the route, and those after it, until the end."""
    release = threading.Event()
    proxy.forget()

    def hold(exchange: Exchange) -> None:
        if exchange.route == route and len(proxy.exchanges(route)) >= number:
            release.wait()

    with proxy.watching(hold):
        try:
            yield
        finally:
            release.set()


@pytest.mark.each_release
def test_a_run_says_what_it_was(proxy: Proxy, screen: Screen) -> None:
    scene(screen, 301)
    assert screen.queue().succeeded
    assert (screen.line(LOADER) or "").startswith("on the worker, computing in")
    line = screen.line(SAMPLER) or ""
    assert line.startswith("each step: 3 calls, ↑")
    assert "compute" in line
    screen.picture("a-run")
    assert screen.page.evaluate(_BROKEN_WORDS) == []
    screen.set(LOADER, "use_runpod", False)
    assert screen.queue().succeeded
    assert screen.line(LOADER) == "on this machine"
    assert screen.line(SAMPLER) == "on this machine"
    assert screen.queue().succeeded
    assert "not run again" in (screen.line(SAMPLER) or "")
    assert "lines" not in str(screen.saved()["nodes"][SAMPLER - 1].get("widgets_values"))
    assert screen.own_errors == []


def begin(screen: Screen) -> str:
    prompt = screen.queued()
    assert prompt is not None
    return prompt


@pytest.mark.parametrize(
    ("offload", "route", "number", "ends"),
    [("each step", "forward", 3, "cancelled after 2 calls"), ("whole loop", "sample", 1, "cancelled")],
)
def test_a_cancelled_run_says_so(
    installation: Installation, proxy: Proxy, screen: Screen, offload: str, route: str, number: int, ends: str
) -> None:
    scene(screen, 310, offload=offload)
    assert screen.queue().succeeded
    screen.set(SAMPLER, "seed", 7)
    with stuck(proxy, route, number):
        prompt = begin(screen)
        screen.wait(said(screen, SAMPLER, f"{offload}: sampling on the worker"), "the line says that it runs")
        proxy.wait_for(route, number)
        installation.comfyui.api.interrupt()
        assert screen.ended(prompt).kind == "execution_interrupted"
    screen.wait(lambda: screen.line(SAMPLER) == ends, f"the line says: {ends}")
    assert screen.own_errors == []


@pytest.mark.each_release
def test_a_lost_worker_is_told_of_in_subgraphs_and_under_any_sampler(
    installation: Installation, proxy: Proxy, screen: Screen
) -> None:
    scene(screen, 320, node="KSampler")
    inner = screen.page.evaluate(_SUBGRAPH, [LOADER, SAMPLER])
    outer = screen.page.evaluate(_SUBGRAPH, [inner])

    def break_off(exchange: Exchange) -> None:
        if exchange.route == "forward":
            raise ConnectionError

    with proxy.watching(break_off):
        prompt = begin(screen)
        proxy.wait_for("forward", 2)
        screen.wait(said(screen, outer, "KSampler: the worker was lost"), "the outer node tells of the loss")
        assert "Remote Model Loader: on the worker" in (screen.line(outer) or "")
        screen.picture("lost-in-a-subgraph")
        enter(screen, outer)
        screen.wait(said(screen, inner, "KSampler: the worker was lost"), "so does the one within")
        enter(screen, inner)
        screen.wait(lambda: "the worker was lost" in " ".join(screen.lines().values()), "so does KSampler")
        assert not any("KSampler:" in line for line in screen.lines().values())
        installation.comfyui.api.interrupt()
        assert screen.ended(prompt).kind == "execution_interrupted"
    screen.wait(lambda: "cancelled" in screen.lines().values(), "KSampler's line says that it was cancelled")
    assert not any("lost" in line for line in screen.lines().values())
    assert screen.own_errors == []


def enter(screen: Screen, node: int) -> None:
    """Open the subgraph of a node of the graph that is open."""
    screen.page.evaluate(
        """id => {
            const { canvas } = window.app;
            const node = canvas.graph.getNodeById(id);
            canvas.openSubgraph(node.subgraph, node);
        }""",
        node,
    )


@pytest.mark.each_release
def test_a_failed_load_says_so_under_the_node_and_first_of_all(
    installation: Installation, worker: Worker, proxy: Proxy, screen: Screen
) -> None:
    configure(installation, proxy, worker, COMFY_GPU_OFFLOAD_RETRY_S="5")
    scene(screen, 330)
    assert screen.queue().succeeded
    screen.set(LOADER, "weight_dtype", "fp8_e5m2")
    with proxy.down():
        ended = screen.queue()
    assert "Is it running" in ended.message
    screen.wait(said(screen, LOADER, "failed: "), "the loader's line says that it failed")
    assert screen.line(SAMPLER) is None, "what stands there is of an earlier run"
    screen.wait(lambda: "Is it running" in screen.text(), "the error's own text is on the page")
    screen.picture("a-failed-load")
    assert screen.own_errors == []
    assert screen.queue().succeeded
    screen.wait(lambda: "Is it running" not in " ".join(screen.toasts()), "the toast of the failed run is gone")


def test_another_workflow_shows_nothing_of_a_run(proxy: Proxy, screen: Screen) -> None:
    scene(screen, 340)
    mine = {**screen.saved(), "id": str(uuid.uuid4())}
    screen.load(mine)
    with stuck(proxy, "forward", 2):
        prompt = begin(screen)
        screen.wait(said(screen, SAMPLER, "sampling on the worker"), "it runs")
        proxy.wait_for("forward", 2)
        screen.load({**mine, "id": str(uuid.uuid4())})
        assert screen.lines() == {}
    assert screen.ended(prompt).succeeded
    assert screen.lines() == {}
    screen.load(mine)
    screen.wait(said(screen, SAMPLER, "each step: 3 calls"), "the workflow that ran has its line")


def test_another_tab_shows_nothing_of_a_run(proxy: Proxy, screen: Screen, installation: Installation) -> None:
    scene(screen, 350)
    with screen.page.context.browser.new_context() as context:  # type: ignore[union-attr]
        other = Screen(context.new_page(), installation, screen._pictures)
        other._go(lambda: other.page.goto(installation.url))
        made = Scene.of(DIGITS, seed=351)
        made.sample("RemoteSampler", made.workflow.remote("digits.safetensors"), Sampling(seed=351), "other")
        load(other, made)
        assert screen.queue().succeeded
        assert screen.line(SAMPLER)
        assert other.lines() == {}


def test_a_setting_that_is_wrong_by_then_costs_no_finished_run(
    installation: Installation, worker: Worker, proxy: Proxy, screen: Screen
) -> None:
    configure(installation, proxy, worker, COMFY_GPU_OFFLOAD_GPU_RATE="0.0003")
    scene(screen, 360)
    with stuck(proxy, "forward", 2):
        prompt = begin(screen)
        proxy.wait_for("forward", 2)
        configure(installation, proxy, worker, COMFY_GPU_OFFLOAD_GPU_RATE="0,0003")
    assert screen.ended(prompt).succeeded
    assert installation.comfyui.saved("lines").shape == DIGITS.latent
    assert "without idle time" in (screen.line(SAMPLER) or "")
    screen.set(SAMPLER, "seed", 8)
    assert "COMFY_GPU_OFFLOAD_GPU_RATE" in screen.queue().message
    screen.wait(said(screen, LOADER, "failed: Wrong settings: COMFY_GPU_OFFLOAD_GPU_RATE"), "the line names it")
