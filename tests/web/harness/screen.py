"""ComfyUI's page in a browser, as a user sees and operates it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from time import monotonic
from typing import Any

from playwright.sync_api import Page, Request
from tests.comfyui.harness.api import Graph
from tests.comfyui.harness.installation import Installation

# These only end a hang: both cores may be busy with other tests.
_START_MS = 180_000
_STEP_MS = 60_000
_RUN_MS = 240_000
_SCRIPT = Path(__file__).with_name("screen.js")
_LIST_BUTTON = "button:has(.comfy-gpu-offload-list)"
_EMPTY: dict[str, Any] = {"last_node_id": 0, "last_link_id": 0, "nodes": [], "links": [], "version": 0.4}
_READY = "() => window.app?.vueAppReady && window.app.graph && !document.querySelector('#splash-loader')"


@dataclass(frozen=True)
class Ended:
    """The end of a prompt.

    Attributes:
        kind: ComfyUI's event: ``execution_success``, ``execution_error`` or ``execution_interrupted``.
        detail: the event's data, e.g. `exception_message` of an error.
    """

    kind: str
    detail: dict[str, Any]

    @property
    def succeeded(self) -> bool:
        return self.kind == "execution_success"

    @property
    def message(self) -> str:
        return str(self.detail.get("exception_message", ""))


class Screen:
    """One page of a ComfyUI. A node is named by its id in the workflow, a widget by its name."""

    def __init__(self, page: Page, installation: Installation, pictures: Path) -> None:
        """`pictures`: the folder that screenshots go to."""
        self.page = page
        self.installation = installation
        self.errors: list[str] = []
        self.requests: list[str] = []
        self._pictures = pictures
        self._opened: dict[str, Any] | None = None  # with these settings
        page.set_default_timeout(_STEP_MS)
        page.add_init_script(path=_SCRIPT)
        page.on("pageerror", lambda error: self.errors.append(f"{error}\n{error.stack}"))
        page.on("request", self._note)

    @property
    def own_errors(self) -> list[str]:
        """Errors out of the pack's own scripts: ComfyUI has some of its own."""
        return [error for error in self.errors if "comfy-gpu-offload" in error]

    def reuse(self, pictures: Path) -> None:
        """Forget what an earlier test recorded; the page itself is emptied by `open`."""
        self.errors.clear()
        self.requests.clear()
        self._pictures = pictures

    def _note(self, request: Request) -> None:
        self.requests.append(request.url)

    def open(self, **settings: Any) -> None:
        """Open ComfyUI with an empty graph.

        `settings`: the frontend's, e.g. ``{"Comfy.VueNodes.Enabled": True}``.
        """
        self.installation.reset_user(**settings)
        if self._opened == settings:
            self.load(_EMPTY)
            self.page.evaluate("offloadTest.forget()")
        else:
            self._go(lambda: self.page.goto(self.installation.url, timeout=_START_MS))
            self.load(_EMPTY)
        self._opened = settings

    def reload(self) -> None:
        """Reload the page, as F5 does."""
        self._go(lambda: self.page.reload(timeout=_START_MS))

    def _go(self, there: Callable[[], object]) -> None:
        there()
        self.page.wait_for_function(_READY, timeout=_START_MS)
        self.page.evaluate("offloadTest.listen()")

    def load(self, workflow: dict[str, Any]) -> None:
        """Open a workflow, as dropping its file on the page does."""
        self.page.evaluate("workflow => window.app.loadGraphData(workflow)", workflow)

    def load_prompt(self, graph: Graph) -> None:
        """Open a prompt in the API's format, as dropping its file on the page does."""
        self.page.evaluate("graph => window.app.loadApiJson(graph, 'prompt')", graph)

    def saved(self) -> dict[str, Any]:
        """Return the workflow as it would be saved."""
        workflow: dict[str, Any] = self.page.evaluate(
            "() => JSON.parse(JSON.stringify(window.app.graph.serialize()))"
        )
        return workflow

    def prompt(self) -> dict[str, Any]:
        """Return the prompt in the API's format, as it would be queued."""
        output: dict[str, Any] = self.page.evaluate("async () => (await window.app.graphToPrompt()).output")
        return output

    def add(self, kind: str) -> int:
        """Add a node as the node library does; return its id."""
        made: int = self.page.evaluate(
            """kind => {
                const node = window.LiteGraph.createNode(kind);
                window.app.graph.add(node);
                return node.id;
            }""",
            kind,
        )
        return made

    def widgets(self, node: int) -> dict[str, dict[str, Any]]:
        """Return a node's widgets by name: `value`, `type`, `label`, and `values` where it is a combo."""
        found = self.page.evaluate("id => offloadTest.widgets(id)", node)
        return {widget["name"]: widget for widget in found}

    def values(self, node: int) -> dict[str, Any]:
        """Return the values of a node's widgets by name."""
        return {name: widget["value"] for name, widget in self.widgets(node).items()}

    def set(self, node: int, widget: str, value: Any) -> None:
        """Choose a value, as the widget's own menu does."""
        self.page.evaluate(
            """([id, name, value]) => {
                const node = offloadTest.node(id);
                const widget = node.widgets.find((each) => each.name === name);
                widget.value = value;
                widget.callback?.(value, window.app.canvas, node);
            }""",
            [node, widget, value],
        )

    def click(self, node: int, widget: str) -> None:
        """Click on a widget that is drawn on the canvas."""
        x, y = self.page.evaluate("([id, name]) => offloadTest.place(id, name)", [node, widget])
        self.page.mouse.click(x, y)

    def refresh(self) -> None:
        """Refresh the node definitions, as R does."""
        self.page.evaluate("() => window.app.refreshComboInNodes()")

    def queue(self) -> Ended:
        """Queue the workflow, and wait until it ended."""
        prompt_id = self.queued()
        assert prompt_id is not None, f"ComfyUI did not take the prompt: {self.toasts()} {self.text()[-2000:]}"
        return self.ended(prompt_id)

    def connect(self, source: int, target: int, output: int = 0, given: int = 0) -> None:
        """Connect a node's output to another's input, each by its place."""
        self.page.evaluate(
            "([from, to, output, input]) => offloadTest.node(from).connect(output, offloadTest.node(to), input)",
            [source, target, output, given],
        )

    def queued(self) -> str | None:
        """Queue the workflow, as the Run button does; return the prompt's id, or None where it was refused."""
        with self.page.expect_response(
            lambda reply: reply.url.endswith("/prompt") and reply.request.method == "POST"
        ) as answer:
            self.page.evaluate("() => void window.app.queuePrompt(0, 1)")
        reply = answer.value
        return str(reply.json()["prompt_id"]) if reply.ok else None

    def ended(self, prompt_id: str) -> Ended:
        """Wait until that prompt ended."""
        found = self.page.wait_for_function("id => offloadTest.ended(id)", arg=prompt_id, timeout=_RUN_MS)
        return Ended(**found.json_value())

    def wait(self, holds: Callable[[], object], what: str) -> None:
        """Wait until `holds` does; `what` names it where it never does."""
        deadline = monotonic() + _STEP_MS / 1000
        while not holds():
            assert monotonic() < deadline, f"never so: {what}"
            self.page.wait_for_timeout(50)

    def toasts(self) -> list[str]:
        """Return the texts of the toasts that are shown."""
        return [text.strip() for text in self.page.locator(".p-toast-message").all_inner_texts()]

    def assert_calm(self) -> None:
        """Assert that nothing on the page says that a model is missing, or that something is wrong with a node."""
        self.page.wait_for_timeout(1000)  # what the frontend would find, it has found by then
        words = f"{self.toasts()} {self.text()}".lower()
        assert "missing" not in words, words
        assert "download" not in words, words
        assert "error" not in words, words
        assert not self.page.evaluate("() => window.app.graph.nodes.some((node) => node.has_errors)")
        assert "undefined" not in self.drawn()
        assert self.own_errors == []

    def text(self) -> str:
        """Return all text of the page that is no canvas's: dialogs, toasts, panels, and nodes made of DOM."""
        return self.page.inner_text("body")

    def button(self) -> str:
        """Return what the button says that asks the worker for its list, on the only node that has one."""
        return self.page.locator(_LIST_BUTTON).inner_text()

    def buttons(self) -> list[str]:
        """Return what the buttons of all nodes say that ask the worker for its list."""
        return self.page.locator(_LIST_BUTTON).all_inner_texts()

    def press_button(self) -> None:
        self.page.locator(_LIST_BUTTON).click()

    def drawn(self) -> list[str]:
        """Return each text that is drawn on the canvases now."""
        texts: list[str] = self.page.evaluate("() => offloadTest.drawn()")
        return texts

    def lines(self) -> dict[int, str]:
        """Return what the pack says under the nodes of the graph that is open, by node."""
        self.page.evaluate("() => window.app.canvas.draw(true, true)")
        found = self.page.evaluate(
            """() => [...document.querySelectorAll(".comfy-gpu-offload-line")].map(
                (element) => [Number(element.dataset.node), element.innerText])"""
        )
        return {int(node): str(text) for node, text in found}

    def line(self, node: int) -> str | None:
        """Return what the pack says under a node, or None where it says nothing."""
        return self.lines().get(node)

    def picture(self, name: str) -> Path:
        """Take a screenshot, for people to look at."""
        file = self._pictures / f"{name}.png"
        self.page.screenshot(path=file)
        return file
