"""The node that runs on this thread is found among all prompts that run, with the LoRA files that it names."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from tests.support.comfy_stand_in.fixtures import StandIn


@pytest.fixture
def running(comfy_stand_in: StandIn) -> Iterator[Any]:
    """Give a server that runs two prompts, of which this thread runs the second."""
    import comfy_execution.utils as execution

    import server

    for name in ("a.safetensors", "b.safetensors"):
        comfy_stand_in.write("loras", name, {"a": torch.ones(1)})
    inputs = {"one": "a.safetensors", "two": {"file": "b.safetensors", "again": "a.safetensors"}, "seed": 3}
    prompts = {
        "other": {"7": {"class_type": "Other", "inputs": {}}},
        "this": {"7": {"class_type": "Stack", "inputs": inputs}},
    }
    instance = server.PromptServer()
    instance.prompt_queue.currently_running = {
        number: (number, name, prompts[name], {}, []) for number, name in enumerate(prompts)
    }
    server.PromptServer.instance, execution.present = instance, execution.ExecutionContext("this", "7")
    yield instance
    server.PromptServer.instance, execution.present = None, None


def test_the_node_of_this_threads_prompt(running: Any) -> None:
    from comfy_gpu_offload.comfyui.client import running_node

    found = running_node.running_node()
    assert found is not None
    assert str(found) == "Stack (node 7)"
    assert found.files == ["a.safetensors", "b.safetensors"]
    assert running_node.prompt_id() == "this"


def test_there_is_none_outside_of_a_prompt_or_without_its_server(running: Any) -> None:
    import comfy_execution.utils as execution

    from comfy_gpu_offload.comfyui.client import running_node

    execution.present = execution.ExecutionContext("ended", "7")
    assert running_node.running_node() is None
    type(running).instance = None
    execution.present = execution.ExecutionContext("this", "7")
    assert running_node.running_node() is None
    execution.present = None
    assert running_node.running_node() is None
    assert (running_node.prompt_id(), running_node.patch_source()) == (None, "")
