"""Write docs/packs.md: each node of other packs that patches a model, on the newest ComfyUI that is found here.

    python -m tests.comfyui.write_packs

The packs are those that tests/comfyui/test_packs.py finds. Takes some minutes.
"""

from __future__ import annotations

import hashlib
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

from .conftest import running_site
from .harness.checkouts import NONE_FOUND, Checkout, find_checkouts, install_requirements
from .harness.fixtures import run_script
from .harness.site import REPOSITORY, Site, write_models_yaml
from .harness.workflow import MMDIT, UNET, Model
from .pack_sweep import PackNode, Tried, packs_found, patching_nodes, tried

_PAGE = REPOSITORY / "docs" / "packs.md"
_MODELS = (UNET, MMDIT)
_SIGNS = {"equal": "=", "no effect": "(=)", "refused": "R", "fails locally too": "-"}
_HEAD = """# Node packs with a remote model

These nodes of other packs were applied, with their default values, to a model loaded by ComfyUI {release} and to
the same model at a worker, and both were sampled by KSampler on a CPU: a small UNet (SD1.5's shape) and a small
MMDiT (SD3's), with random weights. Only nodes are listed that take one model, give one back, and need nothing else.
After each, both models were sampled again without it. `make packs` writes this page.

| | |
| --- | --- |
| `=` | changes the picture, and equals the local model bit for bit |
| `(=)` | equals the local model, but has no effect with its default values |
| `R` | refused by name, before the first call |
| `-` | does not work with the local model either: for another architecture, needs a GPU, or more than defaults |
| `wrong` | differs from the local model, or fails without a name |

Nodes around the network (samplers, guidance, schedules, weight patches) work. A node that puts its own code into
the network is refused, because the network is at the worker: see [Node by node](use/nodes.md).
"""


def rows(found: Mapping[Model, Sequence[Tried]]) -> Iterator[str]:
    """Yield the lines of the table."""
    yield f"| pack | node | {' | '.join(map(str, found))} |"
    yield "| --- | --- |" + " --- |" * len(found)
    for outcomes in sorted(
        zip(*found.values(), strict=True), key=lambda each: (each[0].node.pack, each[0].node.name)
    ):
        node = outcomes[0].node
        signs = " | ".join(f"`{_SIGNS.get(each.outcome, 'wrong')}`" for each in outcomes)
        yield f"| {node.pack} | {node.name.replace('|', '/')} | {signs} |"


def digest(pack: Path) -> str:
    """Return the beginning of the SHA-256 of a pack's Python sources."""
    sources = sorted(file for file in pack.rglob("*.py") if file.is_file())
    total = hashlib.sha256()
    for file in sources:
        total.update(f"{file.relative_to(pack).as_posix()}\0".encode() + file.read_bytes() + b"\0")
    return total.hexdigest()[:12]


def _swept(site: Site, nodes: Sequence[PackNode]) -> Iterator[tuple[Model, list[Tried]]]:
    for model in _MODELS:
        listed = next(each for each in site.comfyui.offered_models() if each.endswith(model.file))
        outcomes = []
        for node in nodes:
            outcomes.append(tried(site, node, model, listed))
            print(f"{model}: {outcomes[-1]}", flush=True)
        yield model, outcomes


def _page(checkout: Checkout, folder: Path) -> str:
    python, packs = checkout.python(), packs_found()
    install_requirements(python, REPOSITORY / "requirements.txt")
    models = folder / "models"
    models.mkdir()
    run_script(python, "build_models.py", checkout.root, models)

    def made(name: str) -> Path:
        (folder / name).mkdir()
        return folder / name

    with running_site(checkout, python, write_models_yaml(models), made, packs) as site:
        nodes = list(patching_nodes(site.comfyui.api.get("/object_info")))
        found = dict(_swept(site, nodes))
    tried_packs = "\n".join(f"- {pack.name}, sources {digest(pack)}" for pack in packs)
    table = "\n".join(rows(found))
    return f"{_HEAD.format(release=checkout.version)}\n{table}\n\n## Packs that were tried\n\n{tried_packs}\n"


def main() -> None:
    """Write the page."""
    checkouts = find_checkouts(os.environ, Path.home())
    if not checkouts:
        sys.exit(NONE_FOUND)
    newest = max(checkouts, key=lambda each: tuple(map(int, (each.version or "0").split("."))))
    with TemporaryDirectory(prefix="packs-") as folder:
        _PAGE.write_text(_page(newest, Path(folder)))


if __name__ == "__main__":
    main()
