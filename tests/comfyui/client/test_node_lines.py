"""Lines under nodes: what they say while a node runs and when it has ended, and to which page they go."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from comfy_gpu_offload.errors import CallCancelledError, ConfigError, OffloadError


@pytest.fixture
def server(comfy_stand_in: Any) -> Iterator[Any]:
    import server

    server.PromptServer.instance = server.PromptServer()
    server.PromptServer.instance.last_node_id = "7"
    yield server.PromptServer.instance
    server.PromptServer.instance = None


def sent(server: Any) -> list[tuple[str, str, str]]:
    return [(data["node"], data["kind"], data["text"]) for _, data, _ in server.sent]


def lines() -> Any:
    from comfy_gpu_offload.comfyui.client import node_lines

    return node_lines


def test_a_line_goes_to_the_page_that_queued_the_prompt(server: Any) -> None:
    lines().show("a note")
    data = {"prompt": "prompt", "node": "7", "kind": "note", "text": "a note"}
    assert server.sent == [("comfy_gpu_offload.line", data, "page")]


def test_a_wait_is_in_the_log_too(server: Any, caplog: Any) -> None:
    caplog.set_level("INFO")
    lines().announce("waiting for the worker")
    assert sent(server) == [("7", "state", "waiting for the worker")]
    assert "waiting for the worker" in caplog.text


def test_a_release_that_does_not_say_which_node_runs(server: Any) -> None:
    server.last_node_id = None
    lines().show("a note", "9")
    lines().show("a note that has no node")
    assert sent(server) == [("9", "note", "a note")]


def test_without_a_page_or_a_server_nothing_is_sent(server: Any) -> None:
    server.client_id = None
    lines().show("a note")
    assert server.sent == []
    type(server).instance = None
    lines().show("a note")


def test_a_line_that_cannot_be_sent_ends_no_run(server: Any) -> None:
    server.send_sync = None
    lines().show("a note")


def test_a_block_that_ends_well(server: Any) -> None:
    with lines().line("sampling …", "7") as line:
        line.result = "each step: 20 calls"
    assert sent(server) == [("7", "state", "sampling …"), ("7", "result", "each step: 20 calls")]


def interrupted() -> BaseException:
    import comfy.model_management

    return comfy.model_management.InterruptProcessingException()


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (CallCancelledError("The call was cancelled.", code="cancelled"), "cancelled after 7 calls"),
        (KeyboardInterrupt(), "cancelled after 7 calls"),
        ("interrupted", "cancelled after 7 calls"),
        (ValueError("/home/me/secret"), "failed after 7 calls (ValueError)"),
        (ConfigError("Wrong settings:\n  - a name"), "failed after 7 calls: Wrong settings: - a name"),
        (OffloadError("x" * 200), "failed after 7 calls: " + "x" * 159 + "…"),
    ],
    ids=["cancelled", "stopped", "interrupted", "another's error", "lines", "long"],
)
def test_a_block_that_ends_otherwise(server: Any, error: Any, text: str) -> None:
    error = interrupted() if error == "interrupted" else error
    with pytest.raises(type(error)), lines().line("sampling …", "7", lambda: "after 7 calls"):
        raise error
    assert sent(server)[-1] == ("7", "result", text)
