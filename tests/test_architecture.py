"""Arrows point inward: docs/design.md, "Rooms and the direction of imports"."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "src" / "comfy_gpu_offload"

# What each room may import, besides itself. The package's own __init__ is the door, and may see the client.
ALLOWED: dict[str, set[str]] = {
    "errors": set(),
    "version": set(),
    "codec_names": set(),
    "config": {"errors", "codec_names"},
    "io": {"errors", "codec_names"},
    "net": {"errors", "config"},
    "digits": set(),
    "protocol": {"errors", "io"},
    "prediction": {"errors", "io", "protocol"},
    "runpod": {"errors", "config", "net"},
    "transport": {"errors", "config", "version", "io", "net", "runpod"},
    "client": {"errors", "config", "version", "io", "prediction", "protocol", "transport"},
    "tuning": {"errors", "config", "io", "protocol", "transport", "client", "backends", "server"},
    "backends": {"errors", "io", "protocol", "digits"},
    "server": {"errors", "config", "version", "io", "net", "prediction", "protocol", "backends"},
    "comfyui/installation": {"errors", "backends"},
    "comfyui/wire": {"errors", "io", "protocol", "backends", "comfyui/installation"},
    "comfyui/worker": {"errors", "io", "protocol", "backends", "comfyui/wire", "comfyui/installation"},
    "comfyui/client": {
        *("errors", "config", "io", "protocol", "transport", "client", "backends"),
        *("comfyui/wire", "comfyui/installation"),
    },
    "nodes": {"errors", "config", "client", "comfyui/client"},
    "backend_factory": {"backends", "comfyui/worker"},
    "shared_worker": {"errors", "config", "backends", "server", "backend_factory"},
    "cli": {
        *("errors", "config", "version", "io", "protocol", "runpod", "transport", "digits", "client", "server"),
        *("backends", "backend_factory", "comfyui/installation", "rental", "tuning"),
    },
    "rental": {"errors", "config", "version", "net", "protocol", "runpod", "transport", "client"},
    "__init__": {"client", "shared_worker", "version"},
    "__main__": {"cli"},
}
# A room within one of these is a room of its own; elsewhere a folder within a room belongs to it.
HOUSES = {"comfyui"}
# Foreign packages that only some rooms may know of.
ONLY_IN = {
    "comfy": ("comfyui", "nodes"),
    "comfy_api": ("nodes",),
    "folder_paths": ("comfyui", "nodes"),
    "diffusers": ("backends/diffusers", "digits"),
    "aiohttp": ("nodes",),
    "h11": ("net",),
    "python_socks": ("net",),
    "runpod": (),
}
FILES = sorted(PACKAGE.rglob("*.py"))
ROOT = PACKAGE.parents[1]
OURS = sorted(
    path
    for path in ROOT.rglob("*.py")
    if not any(part.startswith(".venv") or part in {"build", "dist"} for part in path.relative_to(ROOT).parts)
)


def room_named(parts: tuple[str, ...]) -> str:
    """Return the room of a module or folder by its path within the package."""
    first = parts[0].removesuffix(".py")
    return "/".join(parts[:2]) if first in HOUSES and len(parts) > 1 else first


def room_of(path: Path) -> str:
    parts = path.relative_to(PACKAGE).parts
    return room_named(parts if len(parts) > 2 or parts[0] not in HOUSES else parts[:1])


def imports_of(path: Path) -> Iterator[tuple[int, str]]:
    """(level, dotted name) of every import statement, wherever it stands."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from ((0, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            if node.module:
                yield node.level, node.module
            else:
                yield from ((node.level, alias.name) for alias in node.names)


def target_room(path: Path, level: int, name: str) -> str:
    folder = path.parent
    for _ in range(level - 1):
        folder = folder.parent
    return room_named((*folder.relative_to(PACKAGE).parts, *name.split(".")))


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_arrows_point_inward(path: Path) -> None:
    room = room_of(path)
    for level, name in imports_of(path):
        if level:
            target = target_room(path, level, name)
            assert target == room or target in ALLOWED[room], f"{room} imports {target}"


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_inside_the_package_are_relative_and_foreign_ones_in_their_rooms(path: Path) -> None:
    place = path.relative_to(PACKAGE).as_posix()
    for level, name in imports_of(path):
        if level == 0:
            foreign = name.split(".")[0]
            assert foreign != "comfy_gpu_offload", f"{place} imports the package absolutely"
            allowed = ONLY_IN.get(foreign)
            assert allowed is None or place.startswith(allowed), f"{place} imports {foreign}"


def test_runpods_sdk_is_imported_only_by_what_ships_to_its_gpus() -> None:
    importing = {
        path.relative_to(ROOT).as_posix()
        for path in OURS
        for level, name in imports_of(path)
        if level == 0 and name.split(".")[0] == "runpod"
    }
    # The gateway's own tests run the SDK with handlers of theirs.
    assert {path for path in importing if not path.startswith("tests/")} == {"worker/handler.py"}


def test_every_room_is_listed() -> None:
    assert {room_of(path) for path in FILES} <= ALLOWED.keys() | HOUSES


def test_no_pickle_no_eval_no_torch_load() -> None:
    for path in [*FILES, *(ROOT / "worker").glob("*.py")]:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call):
                called = ast.unparse(node.func)
                assert called not in {"eval", "exec", "torch.load", "pickle.loads", "pickle.load"}, path
