"""A command that writes the README's picture of the nodes and the thumbnails of the example workflows.

    python -m tests.web.take_pictures             # all of them
    python -m tests.web.take_pictures NAME ...    # of these workflows

Each workflow is opened in Chromium, on a page of a real ComfyUI with a worker. The README's is run with a small
model, so that the lines under its nodes are those of a run.
"""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from PIL import Image
from playwright.sync_api import Page, sync_playwright
from tests.comfyui.harness.checkouts import NONE_FOUND, Checkout, find_checkouts, install_requirements
from tests.comfyui.harness.installation import Installation
from tests.comfyui.harness.site import (
    REPOSITORY,
    Worker,
    await_comfyui,
    begin_comfyui,
    install_pack,
    new_token,
    write_models_yaml,
)

from .harness.chromium import NONE_FOUND as NO_BROWSER
from .harness.chromium import find_browser
from .harness.screen import Screen
from .harness.templates import FOLDER, NAMES, Template, give_input_picture, local_files, remote_models, run_small

_NODES = REPOSITORY / "docs" / "images" / "nodes.png"
# Previews of a small model's run would be noise.
_SETTINGS = {
    "Comfy.Minimap.Visible": False,
    "Comfy.Graph.CanvasInfo": False,
    "Comfy.Execution.PreviewMethod": "none",
}
_CAPTIONS = {
    "all_remote_checkpoint": ("Checkpoint", "all on the worker"),
    "all_remote_flux": ("Flux", "all on the worker"),
    "all_remote_qwen_image_edit": ("Qwen Edit", "all on the worker"),
    "all_remote_wan_image_to_video": ("Wan 2.2", "image to video, all remote"),
    "remote_control_net": ("ControlNet", "SD1.5, from edges"),
    "remote_model": ("Flux", "text to image"),
    "remote_sdxl": ("SDXL", "text to image"),
    "remote_wan_image_to_video": ("Wan 2.2", "image to video"),
    "remote_wan_text_to_video": ("Wan 2.1", "text to video"),
}
_SHOWN = "remote_model"  # in the README
_THUMBNAIL = 400  # a side: template browsers show squares
_GRAPH_WIDTH = 900  # of a thumbnail before it is made smaller
_MARGIN = 24
_CORNER = (120, 640)  # of the page, clear of ComfyUI's own panels
_LEFT_OUT = ["MarkdownNote", "SaveImage", "CreateVideo", "SaveVideo"]
# Removes nodes, and takes off the others what a run with a small model has drawn.
_TIDY = """kinds => {
    const { graph } = window.app;
    for (const node of graph.nodes.filter(({ type }) => kinds.includes(type))) graph.remove(node);
    const sampler = graph.nodes.find(({ type }) => type === "RemoteSampler");
    sampler.imgs = undefined;
    sampler.setSize([sampler.size[0], 300]);
    const decode = graph.nodes.find(({ type }) => type === "VAEDecode");
    if (decode) decode.pos = [sampler.pos[0], sampler.pos[1] + 430];
}"""
# Puts the graph's corner at a place of the page; returns the graph's size on the page.
_PLACE = """([left, top, scale]) => {
    const { canvas, graph } = window.app;
    const boxes = [
        ...graph.nodes.map((node) => node.boundingRect),
        ...graph.groups.map((group) => [...group.pos, ...group.size]),
    ];
    const [x, y] = [0, 1].map((axis) => Math.min(...boxes.map((box) => box[axis])));
    const [width, height] = [0, 1].map((axis) => Math.max(...boxes.map((box) => box[axis] + box[axis + 2])));
    const page = canvas.canvas.getBoundingClientRect();
    canvas.ds.scale = scale;
    canvas.ds.offset = [(left - page.left) / scale - x, (top - page.top) / scale - y];
    canvas.setDirty(true, true);
    return [(width - x) * scale, (height - y) * scale];
}"""
_CAPTION = """([title, text, x, y, width, height]) => {
    const made = document.createElement("div");
    for (const part of [title, text]) {
        made.append(Object.assign(document.createElement("div"), { textContent: part }));
    }
    made.style.cssText = `position: fixed; z-index: 9999; left: ${x}px; top: ${y}px; width: ${width}px;
        height: ${height}px; display: flex; flex-direction: column; justify-content: center; align-items: center;
        background: #1d3354; color: #fff; font: bold 120px sans-serif;`;
    made.lastChild.style.cssText = "font: 56px sans-serif; color: #c3d0e6";
    document.body.append(made);
}"""
_Box = tuple[float, float, float, float]


@contextmanager
def started(checkout: Checkout, folder: Path) -> Iterator[tuple[Installation, Worker]]:
    """Start a ComfyUI with the pack, and a worker."""
    python = checkout.python()
    install_requirements(python, REPOSITORY / "requirements.txt")
    for name in ("models", "worker", "comfyui"):
        (folder / name).mkdir()
    models_yaml = write_models_yaml(folder / "models")
    worker = Worker(checkout, python, folder / "worker", models_yaml, new_token())
    install_pack(folder / "comfyui")
    with ExitStack() as ending:
        worker.begin()
        ending.callback(worker.stop)
        comfyui = begin_comfyui(checkout, python, folder / "comfyui", models_yaml, {})
        ending.callback(comfyui.process.kill)
        worker.await_ready()
        await_comfyui(comfyui)
        installation = Installation(comfyui)
        installation.configure_for(worker)
        give_input_picture(installation, checkout.root)
        yield installation, worker


def open_template(screen: Screen, template: Template) -> None:
    screen.open(**_SETTINGS)
    screen.load(template.workflow)
    screen.assert_calm()


def graph_box(page: Page, scale: float) -> _Box:
    """Draw the graph so large; return where it is on the page: x, y, width and height with a margin around it."""
    width, height = page.evaluate(_PLACE, [*_CORNER, scale])
    x, y = _CORNER
    return x - _MARGIN, y - _MARGIN, width + 2 * _MARGIN, height + 2 * _MARGIN


def shot(page: Page, box: _Box) -> Image.Image:
    """Take what is in that part of the page."""
    page.wait_for_timeout(500)  # until it is drawn
    clip: Any = dict(zip(("x", "y", "width", "height"), box, strict=True))
    return Image.open(io.BytesIO(page.screenshot(clip=clip))).convert("RGB")


def take_nodes(screen: Screen, template: Template) -> None:
    """Write the README's picture: the nodes of the workflow up to the latent, after a run."""
    open_template(screen, template)
    run_small(screen, shrunk=False)
    ended = screen.queue()
    assert ended.succeeded, ended.message
    screen.page.wait_for_timeout(8000)  # until ComfyUI's own messages of the run are gone
    screen.page.evaluate(_TIDY, _LEFT_OUT)
    picture = shot(screen.page, graph_box(screen.page, 1.0))
    _NODES.parent.mkdir(parents=True, exist_ok=True)
    picture.quantize(128, dither=Image.Dither.NONE).save(_NODES, optimize=True)


def take_thumbnail(screen: Screen, template: Template) -> None:
    """Write the picture that the template browser shows: what it is for, and the graph under that."""
    open_template(screen, template)
    screen.page.evaluate(_TIDY, _LEFT_OUT)
    width = graph_box(screen.page, 1.0)[2]
    x, y, side, height = graph_box(screen.page, _GRAPH_WIDTH / width)
    screen.page.evaluate(_CAPTION, [*_CAPTIONS[template.name], x, y + height - side, side, side - height])
    picture = shot(screen.page, (x, y + height - side, side, side)).resize(
        (_THUMBNAIL, _THUMBNAIL), Image.Resampling.LANCZOS
    )
    picture.save(FOLDER / f"{template.name}.jpg", quality=60, optimize=True)


def main() -> None:
    checkouts = find_checkouts(os.environ, Path.home())
    if not checkouts:
        sys.exit(NONE_FOUND)
    program = find_browser(os.environ)
    if program is None:
        sys.exit(NO_BROWSER)
    newest = max(checkouts, key=lambda each: [int(part) for part in (each.version or "0").split(".")])
    with (
        TemporaryDirectory() as folder,
        started(newest, Path(folder)) as (installation, worker),
        sync_playwright() as playwright,
        playwright.chromium.launch(executable_path=program) as browser,
    ):
        for template in map(Template.read, sys.argv[1:] or NAMES):
            page = browser.new_page(viewport={"width": 1600, "height": 1700}, device_scale_factor=1.5)
            screen = Screen(page, installation, Path(folder))
            with local_files(template, installation), remote_models(template, worker):
                take_thumbnail(screen, template)
                if template.name == _SHOWN:
                    take_nodes(screen, template)
            page.close()


if __name__ == "__main__":
    main()
