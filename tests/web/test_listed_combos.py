"""web/: the combos that name something at the worker, on a page of a real ComfyUI."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
from tests.comfyui.harness.checkouts import Checkout
from tests.comfyui.harness.installation import Installation
from tests.comfyui.harness.proxy import Proxy
from tests.comfyui.harness.site import REPOSITORY, Worker
from tests.comfyui.harness.workflow import DIGITS, Sampling, Scene
from tests.support.backend import FunctionBackend
from tests.support.worker import ThreadWorker

from .harness.screen import Screen
from .harness.workflows import saved_node, saved_workflow

pytestmark = [pytest.mark.comfyui, pytest.mark.shared_page]

LOADER = "RemoteModelLoader"
NAMES = ["a.safetensors", "b.safetensors", "c.safetensors"]
LISTED = "ask the worker for its list"
# How frontends saved the loader with ComfyUI's own `remote` combo, whose toggle and button took places behind
# it, and how a user wrote it who dropped them.
EARLIER = [
    [False, "fp8_e4m3fn", "b.safetensors", False, "refresh"],
    [False, "fp8_e4m3fn", "b.safetensors", "refresh", False],
    [False, "fp8_e4m3fn", "b.safetensors"],
]


@pytest.fixture
def listing(installation: Installation) -> Iterator[ThreadWorker]:
    """Name a worker with three models and no ControlNet in the settings."""
    backend = FunctionBackend()
    backend.functions = dict.fromkeys(NAMES, backend.functions["echo"])
    with ThreadWorker(backend) as worker:
        installation.configure(COMFY_GPU_OFFLOAD_URL=worker.url)
        yield worker


@pytest.fixture
def way(installation: Installation, listing: ThreadWorker) -> Iterator[Proxy]:
    """Between ComfyUI and that worker."""
    proxy = Proxy(("127.0.0.1", listing.port))
    installation.configure(COMFY_GPU_OFFLOAD_URL=proxy.url)
    yield proxy
    proxy.close()


def loader(name: str | None, number: int = 1) -> dict[str, Any]:
    return saved_node(LOADER, [True, "default", name], number)


def settled(screen: Screen) -> str:
    """Return what the button says once the worker has answered, or did not."""
    screen.wait(lambda: screen.button() != "asking the worker …", "an answer to the question for the list")
    return screen.button()


@pytest.mark.each_release
def test_a_new_node_offers_the_workers_list(listing: ThreadWorker, screen: Screen) -> None:
    screen.open()
    node = screen.add(LOADER)
    assert settled(screen) == LISTED
    assert screen.widgets(node)["model_name"]["values"] == NAMES
    assert screen.values(node)["model_name"] == NAMES[0]
    (saved,) = screen.saved()["nodes"]
    assert saved["widgets_values"] == [True, "default", NAMES[0]]
    screen.assert_calm()
    screen.picture("listed")


@pytest.mark.each_release
@pytest.mark.parametrize("values", EARLIER, ids=["toggle first", "button first", "bare"])
def test_a_workflow_of_before_opens_with_each_value_in_its_place(
    listing: ThreadWorker, screen: Screen, values: list[Any]
) -> None:
    screen.open()
    screen.load(saved_workflow(saved_node(LOADER, values)))
    settled(screen)
    expected = {"use_runpod": False, "weight_dtype": "fp8_e4m3fn", "model_name": "b.safetensors"}
    assert {name: screen.values(1)[name] for name in expected} == expected
    assert screen.saved()["nodes"][0]["widgets_values"] == [False, "fp8_e4m3fn", "b.safetensors"]
    screen.load(screen.saved())
    assert {name: screen.values(1)[name] for name in expected} == expected
    screen.assert_calm()


@pytest.mark.each_release
def test_a_name_stays_while_its_worker_is_down(way: Proxy, screen: Screen) -> None:
    with way.down():
        screen.open()
        screen.load(saved_workflow(loader("b.safetensors")))
        assert way.url in settled(screen)
        assert screen.button().startswith("Worker not reachable: ")
        assert screen.button().endswith("(retry)")
        screen.assert_calm()
        screen.picture("down")
        assert screen.values(1)["model_name"] == "b.safetensors"
        screen.refresh()
        settled(screen)
        assert screen.values(1)["model_name"] == "b.safetensors"
        screen.load(screen.saved())
        settled(screen)
        assert screen.values(1)["model_name"] == "b.safetensors"
        screen.reload()
        screen.load(saved_workflow(loader("b.safetensors")))
        assert "not reachable" in settled(screen)
        screen.press_button()
        assert "not reachable" in settled(screen)
        screen.assert_calm()
    screen.press_button()
    screen.wait(lambda: screen.button() == LISTED, "the list, once the worker is up")
    assert screen.values(1)["model_name"] == "b.safetensors"
    assert screen.widgets(1)["model_name"]["values"] == NAMES


def test_a_list_that_is_down_later_stays_on_offer(way: Proxy, screen: Screen) -> None:
    screen.open()
    node = screen.add(LOADER)
    assert settled(screen) == LISTED
    with way.down():
        screen.press_button()
        screen.wait(lambda: "not reachable" in screen.button(), "word of the worker that is down")
        assert screen.widgets(node)["model_name"]["values"] == NAMES


def test_a_name_stays_where_the_worker_has_nothing_of_its_kind(listing: ThreadWorker, screen: Screen) -> None:
    screen.open()
    screen.load(saved_workflow(saved_node("RemoteControlNetLoader", [True, "edges.safetensors"])))
    assert "not in the worker's list: edges.safetensors" in settled(screen)
    screen.refresh()
    settled(screen)
    assert screen.values(1)["control_net_name"] == "edges.safetensors"
    assert screen.saved()["nodes"][0]["widgets_values"] == [True, "edges.safetensors"]
    screen.assert_calm()
    screen.picture("nothing-of-its-kind")
    screen.set(1, "use_runpod", False)
    assert screen.button() == LISTED
    screen.set(1, "use_runpod", True)
    assert "not in the worker's list: edges.safetensors" in screen.button()


@pytest.mark.parametrize("lost", ["Loading...", None])
def test_what_was_saved_in_a_names_place_is_none(listing: ThreadWorker, screen: Screen, lost: str | None) -> None:
    screen.open()
    screen.load(saved_workflow(loader(lost)))
    settled(screen)
    assert screen.values(1)["model_name"] in {"", NAMES[0]}
    screen.assert_calm()


@pytest.mark.each_release
def test_several_lists_in_one_node(listing: ThreadWorker, screen: Screen) -> None:
    screen.open()
    values = ["c.safetensors", 0.5, "gone.safetensors", "edges.safetensors", "other"]
    screen.load(saved_workflow(saved_node("OffloadTestSeveralLists", values)))
    assert "gone.safetensors, edges.safetensors" in settled(screen)
    screen.refresh()
    settled(screen)
    assert screen.saved()["nodes"][0]["widgets_values"] == values
    screen.set(1, "second", "a.safetensors")
    screen.set(1, "net", "depth.safetensors")
    ran = screen.queue()
    assert ran.succeeded, ran.message
    expected = ["c.safetensors", 0.5, "a.safetensors", "depth.safetensors", "other"]
    assert list(screen.prompt()["1"]["inputs"].values()) == expected
    screen.assert_calm()


@pytest.mark.new_page
def test_the_worker_is_asked_once_and_not_polled(way: Proxy, screen: Screen) -> None:
    screen.open()
    screen.load(saved_workflow(loader("b.safetensors", 1), loader("c.safetensors", 2)))
    screen.wait(lambda: screen.page.locator(f"text={LISTED}").count() == 2, "both nodes' lists")
    screen.page.wait_for_timeout(4000)  # the poll that there was came every 1.5 s
    assert len(way.exchanges("hello")) == 1


@pytest.mark.new_page
def test_a_page_without_our_nodes_asks_nobody(way: Proxy, screen: Screen) -> None:
    screen.open()
    screen.add("KSampler")
    screen.page.wait_for_timeout(2000)
    assert way.exchanges("hello") == []
    assert not [url for url in screen.requests if "comfy_gpu_offload/lists" in url]


def test_a_run_brings_the_list(installation: Installation, worker: Worker, screen: Screen) -> None:
    proxy = Proxy(("127.0.0.1", worker.port))
    installation.configure(COMFY_GPU_OFFLOAD_URL=proxy.url, COMFY_GPU_OFFLOAD_TOKEN=worker.token)
    scene = Scene.of(DIGITS)
    scene.sample("KSampler", scene.workflow.remote(DIGITS.file), Sampling(seed=21), "from-the-page")
    with proxy.down():
        screen.open()
        screen.load_prompt(scene.workflow.graph)
        (node,) = (int(number) for number, each in screen.prompt().items() if each["class_type"] == LOADER)
        assert "not reachable" in settled(screen)
        assert screen.values(node)["model_name"] == DIGITS.file
    ran = screen.queue()
    assert ran.succeeded, ran.message
    screen.wait(lambda: screen.button() == LISTED, "the list that the run has brought")
    assert len(screen.widgets(node)["model_name"]["values"]) > 1
    assert screen.values(node)["model_name"] == DIGITS.file
    screen.assert_calm()
    proxy.close()


def test_without_a_worker_in_the_settings_the_node_says_so(installation: Installation, screen: Screen) -> None:
    screen.open()
    screen.load(saved_workflow(loader("b.safetensors")))
    assert "COMFY_GPU_OFFLOAD_URL" in settled(screen)
    assert screen.values(1)["model_name"] == "b.safetensors"
    assert DIGITS.file in screen.widgets(1)["model_name"]["values"]
    installation.configure(COMFY_GPU_OFFLOAD_RETRY_S="soon")
    screen.press_button()
    screen.wait(lambda: "COMFY_GPU_OFFLOAD_RETRY_S" in screen.button(), "the setting that is wrong")
    assert screen.values(1)["model_name"] == "b.safetensors"
    screen.assert_calm()
    screen.picture("settings")


@pytest.mark.parametrize(
    "example", sorted((REPOSITORY / "example_workflows").glob("*.json")), ids=lambda path: path.stem
)
def test_the_examples_open_with_their_names(way: Proxy, screen: Screen, example: Any) -> None:
    workflow = json.loads(example.read_text())
    with way.down():
        screen.open()
        screen.load(workflow)
        for node in workflow["nodes"]:
            if node["type"].startswith("Remote") and "Loader" in node["type"]:
                assert node["widgets_values"][-1] in screen.values(node["id"]).values()
    screen.picture("example")


@pytest.mark.each_release
def test_a_name_that_is_shown_on_a_subgraph_stays(way: Proxy, screen: Screen) -> None:
    with way.down():
        screen.open()
        node = screen.add(LOADER)
        screen.set(node, "model_name", "b.safetensors")
        outer = screen.page.evaluate(
            """id => {
                const { subgraph, node } = window.app.graph.convertToSubgraph(new Set([offloadTest.node(id)]));
                const inner = subgraph.nodes[0];
                const slot = subgraph.addInput("model_name", "COMBO");
                slot.connect(inner.inputs.find((each) => each.name === "model_name"), inner);
                return node.id;
            }""",
            node,
        )
        screen.set(outer, "model_name", "gone.safetensors")
        workflow = screen.saved()
        screen.load(workflow)
        assert screen.values(outer)["model_name"] == "gone.safetensors"
        screen.refresh()
        screen.page.wait_for_timeout(1000)
        assert screen.values(outer)["model_name"] == "gone.safetensors"
        screen.assert_calm()
        screen.picture("subgraph")
    screen.refresh()
    screen.wait(
        lambda: NAMES[2] in (screen.widgets(outer)["model_name"]["values"] or []), "the list on the subgraph"
    )
    assert screen.values(outer)["model_name"] == "gone.safetensors"


@pytest.mark.each_release
def test_a_name_in_a_primitive_node_stays(way: Proxy, screen: Screen) -> None:
    with way.down():
        screen.open()
        node, primitive = screen.add(LOADER), screen.add("PrimitiveNode")
        screen.set(node, "model_name", "b.safetensors")
        screen.page.evaluate(
            """([from, to]) => {
                const target = offloadTest.node(to);
                const slot = target.inputs.findIndex((each) => each.name === "model_name");
                offloadTest.node(from).connect(0, target, slot);
            }""",
            [primitive, node],
        )
        value = f"() => offloadTest.node({primitive}).widgets[0].value"
        assert screen.page.evaluate(value) == "b.safetensors"
        screen.refresh()
        screen.load(screen.saved())
        screen.refresh()
        screen.page.wait_for_timeout(1000)
        assert screen.page.evaluate(value) == "b.safetensors"
        assert screen.prompt()[str(node)]["inputs"]["model_name"] == "b.safetensors"
        screen.assert_calm()


def test_a_node_made_of_dom_says_the_same(way: Proxy, screen: Screen, checkout: Checkout) -> None:
    if checkout.version == "0.3.64":
        pytest.skip("its frontend draws nodes on a canvas alone")
    with way.down():
        screen.open(**{"Comfy.VueNodes.Enabled": True})
        screen.load(saved_workflow(loader("b.safetensors")))
        assert "not reachable" in settled(screen)
        screen.assert_calm()
        assert "b.safetensors" in screen.text()
        screen.picture("dom-down")
    screen.press_button()
    screen.wait(lambda: screen.button() == LISTED, "the list, once the worker is up")
    screen.page.get_by_role("combobox").filter(has_text="b.safetensors").click()
    screen.page.get_by_role("option", name="c.safetensors").click()
    screen.picture("dom-listed")
    assert screen.values(1)["model_name"] == "c.safetensors"
