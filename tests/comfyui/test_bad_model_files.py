"""A worker over a real ComfyUI whose model folders hold entries that cannot be offered or loaded."""

import os
import shutil
from pathlib import Path

import pytest

from comfy_gpu_offload import connect
from comfy_gpu_offload.errors import ModelFailedError
from comfy_gpu_offload.protocol.messages import Welcome

from .harness.checkouts import Checkout
from .harness.site import Worker, new_token, write_models_yaml

pytestmark = pytest.mark.comfyui

KINDS = ("diffusion_models", "checkpoints", "controlnet")
DAMAGED = {
    "empty": b"",
    "page": b"<!doctype html><title>Log in",
    "pointer": b"version https://git-lfs.github.com/spec/v1\n",
}
# Neither is safetensors: the beginning of a pickle, and no file of any kind.
NO_SAFETENSORS = {"pickle.ckpt": b"\x80\x02}q\x00X\x01", "noise.pth": b"\x93noise" * 20}
SAYS = {"empty": "is empty", "page": "is a web page", "pointer": "git lfs pull", "cut": "is cut off"}


def spoil(folder: Path) -> None:
    """Put one of each bad entry into the folder."""
    (folder / "gone.safetensors").symlink_to(folder / "nowhere")
    # Of two links back into the folder each lookup through both doubles the ways, at every depth.
    (folder / "loop").symlink_to(folder)
    (folder / "ring").symlink_to(folder)
    Path(os.fsdecode(os.fsencode(folder) + b"/caf\xe9.safetensors")).write_bytes(b"1234")
    deep = folder / ("a" * 140) / ("b" * 140)
    deep.mkdir(parents=True)
    (deep / "c.safetensors").write_bytes(b"1234")


def assert_names(welcome: Welcome) -> None:
    assert welcome.skipped is not None
    names = {entry.name for entry in welcome.skipped.entries}
    assert {"gone.safetensors", "caf\\xe9.safetensors", "loop", "ring"} <= names


def test_bad_entries_take_nothing_else_away(
    checkout: Checkout, python: Path, models_yaml: Path, tmp_path: Path
) -> None:
    models = tmp_path / "models"
    for kind in KINDS:
        (models / kind).mkdir(parents=True)
    source = models_yaml.parent / "diffusion_models" / "mmdit.safetensors"
    good = models / "diffusion_models" / "good.safetensors"
    shutil.copy(source, good)
    worker = Worker(checkout, python, tmp_path, write_models_yaml(models), new_token())
    worker.begin()
    worker.await_ready()
    try:
        with connect(f"http://127.0.0.1:{worker.port}", worker.token) as session:
            assert session.welcome.skipped is None
            for kind in KINDS:
                spoil(models / kind)
                for name, data in {**DAMAGED, "cut": good.read_bytes()[:-100]}.items():
                    (models / kind / f"{kind} {name}.safetensors").write_bytes(data)
                for name, data in NO_SAFETENSORS.items():
                    (models / kind / f"{kind} {name}").write_bytes(data)
            names = {entry.name for entry in session.models()}
            assert "good.safetensors" in names
            assert_names(session.welcome)
            session.model("good.safetensors")
            for kind in KINDS:
                for name, says in SAYS.items():
                    file = models / kind / f"{kind} {name}.safetensors"
                    prefix = "controlnet:" if kind == "controlnet" else ""
                    with pytest.raises(ModelFailedError, match=says) as raised:
                        session.model(prefix + file.name)
                    assert str(file) in str(raised.value)
                for name in NO_SAFETENSORS:
                    with pytest.raises(ModelFailedError, match="ComfyUI cannot load") as raised:
                        session.model(f"{prefix}{kind} {name}")
                    assert str(models / kind / f"{kind} {name}") in str(raised.value)
        worker.stop()
        log = worker.process.lines
        for kind in KINDS:
            for name, says in SAYS.items():
                assert any(says in line and f"{kind} {name}" in line for line in log)
        worker.begin()
        worker.await_ready()
        with connect(f"http://127.0.0.1:{worker.port}", worker.token) as session:
            assert_names(session.welcome)
            assert session.model("good.safetensors").description.ref.name == "good.safetensors"
    finally:
        worker.stop()
