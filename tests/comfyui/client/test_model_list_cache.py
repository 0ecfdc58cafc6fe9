"""Lists that outlive ComfyUI, in a file that anybody may have damaged."""

from __future__ import annotations

from pathlib import Path

import pytest

from comfy_gpu_offload.comfyui.client.model_list_cache import KeptLists

LISTS = {"models": ("a.safetensors", "sub/b.safetensors"), "control_nets": ()}


def test_a_list_is_there_again_after_a_restart(tmp_path: Path) -> None:
    file = tmp_path / "folder" / "lists.json"
    KeptLists(file).put("endpoint", LISTS)
    assert KeptLists(file).get("endpoint") == LISTS
    assert KeptLists(file).get("another") is None
    assert [each.name for each in file.parent.iterdir()] == [file.name]


def test_no_address_is_in_the_file(tmp_path: Path) -> None:
    file = tmp_path / "lists.json"
    KeptLists(file).put("https://my-pod-8288.proxy.runpod.net", LISTS)
    assert "my-pod" not in file.read_text()


def test_the_oldest_goes(tmp_path: Path) -> None:
    kept = KeptLists(tmp_path / "lists.json")
    for number in range(10):
        kept.put(f"worker-{number}", {"models": (str(number),)})
    again = KeptLists(tmp_path / "lists.json")
    assert [number for number in range(10) if again.get(f"worker-{number}")] == [*range(2, 10)]


@pytest.mark.parametrize(
    "text",
    ["", "[]", "{", '{"workers": {"x": {}}}', '{"workers": 3}', "\x00", " " * (9 * 1024**2)],
    ids=str.__len__,
)
def test_a_damaged_file_is_none(tmp_path: Path, text: str) -> None:
    file = tmp_path / "lists.json"
    file.write_text(text)
    kept = KeptLists(file)
    assert kept.get("worker") is None
    kept.put("worker", LISTS)
    assert KeptLists(file).get("worker") == LISTS


def test_a_folder_that_cannot_be_written_loses_nothing_but_the_file(tmp_path: Path) -> None:
    (tmp_path / "folder").write_text("a file where the folder would be")
    kept = KeptLists(tmp_path / "folder" / "lists.json")
    kept.put("worker", LISTS)
    assert kept.get("worker") == LISTS
