"""Warnings of ComfyUI that a worker sends: bounded, of one load, and without its folders."""

from __future__ import annotations

import logging
import threading
from pathlib import Path

import pytest

from comfy_gpu_offload.comfyui.worker.load_warnings import warnings_while_loading
from comfy_gpu_offload.protocol.messages import MAX_WARNINGS, WARNING_CHARACTERS, ModelDescription, ModelRef

PATH = Path("/srv/models/controlnet/net.safetensors")
ROOT = logging.getLogger()


def warned(*texts: str) -> list[str]:
    with warnings_while_loading(PATH) as found:
        for text in texts:
            ROOT.warning("%s", text)
    return found


def test_warnings_and_errors_are_kept_and_nothing_else() -> None:
    with warnings_while_loading(PATH) as found:
        ROOT.info("loading")
        ROOT.warning("missing keys: %s", ["a"])
        ROOT.error("error checkpoint %s", "is none")
        logging.getLogger("comfy_gpu_offload.backends").warning("of our own")
    ROOT.warning("after it")
    assert found == ["missing keys: ['a']", "error checkpoint is none"]


@pytest.mark.parametrize(
    ("text", "kept"),
    [
        (f"no data in {PATH}", "no data in net.safetensors"),
        ("see '/home/someone/.cache/a b.bin'", "see 'a b.bin'"),
        (r"see C:\Users\someone\model.ckpt", "see model.ckpt"),
        ("unet missing: ['blocks.0/x']", "unet missing: ['blocks.0/x']"),
        ("two\nlines\x0b", "two lines"),
    ],
)
def test_folders_and_lines_are_left_out(text: str, kept: str) -> None:
    assert warned(text) == [kept]


def test_they_are_bounded_and_each_is_kept_once() -> None:
    found = warned(*["the same"] * 3, "x" * 9999, *(f"number {number}" for number in range(99)))
    assert len(found) == MAX_WARNINGS
    assert found[0] == "the same"
    assert max(map(len, found)) == WARNING_CHARACTERS
    description = ModelDescription(
        ref=ModelRef(name="m"), fingerprint="f" * 8, compute_dtype="float32", warnings=tuple(found)
    )
    assert description.fields()["warnings"] == tuple(found)


def test_what_another_thread_warns_of_is_not_of_this_load() -> None:
    with warnings_while_loading(PATH) as found:
        thread = threading.Thread(target=ROOT.warning, args=("elsewhere",))
        thread.start()
        thread.join()
    assert found == []


def test_a_description_without_warnings_is_what_older_releases_know() -> None:
    description = ModelDescription(ref=ModelRef(name="m"), fingerprint="f" * 8, compute_dtype="float32")
    assert set(description.fields()) == {"ref", "fingerprint", "compute_dtype"}
