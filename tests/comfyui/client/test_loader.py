"""The loader nodes' functions: at the configured worker, or on this machine, and when they have to run again."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from tests.support.comfy_stand_in.fixtures import StandIn

from comfy_gpu_offload.client.session import Session
from comfy_gpu_offload.config.settings import Settings
from comfy_gpu_offload.errors import ConfigError, OffloadError, UnknownModelError

from .conftest import MODEL, sampled

FIRST, SECOND = Settings(url="http://127.0.0.1:1"), Settings(url="http://127.0.0.1:2")


@pytest.fixture
def loader(
    comfy_stand_in: StandIn, new_session: Callable[[], Session], monkeypatch: pytest.MonkeyPatch
) -> Iterator[Any]:
    """Give the module, with settings that name a worker in this process."""
    from comfy_gpu_offload.comfyui.client import loader, worker_sessions

    comfy_stand_in.write_model(MODEL)
    comfy_stand_in.write_control_net("edges.safetensors")
    monkeypatch.setattr(loader, "_sessions", worker_sessions.Sessions())
    monkeypatch.setattr(worker_sessions, "connect_from", lambda *_, **__: new_session())
    monkeypatch.setattr(loader, "checked_settings", lambda: FIRST)
    monkeypatch.setattr(loader, "load_settings", lambda: FIRST)
    return loader


def test_both_ways_of_loading_give_the_same(loader: Any) -> None:
    import torch

    there, here = loader.load_remote(MODEL, "default"), loader.load_local(MODEL, "default")
    assert torch.equal(sampled(there), sampled(here))
    assert there.worker_release == "0.0.0+stand-in"


def test_both_ways_of_loading_a_control_net(loader: Any) -> None:
    there, here = (
        loader.load_remote_control_net("edges.safetensors"),
        loader.load_local_control_net("edges.safetensors"),
    )
    assert type(there).__name__ == "RemoteControlNet"
    assert type(here).__name__ == "ControlNet"


def test_what_is_not_there_is_told(loader: Any) -> None:
    with pytest.raises(UnknownModelError, match=r"other\.safetensors"):
        loader.load_remote("other.safetensors", "default")
    for load in (lambda: loader.load_local("other", "default"), lambda: loader.load_local_control_net("other")):
        with pytest.raises(OffloadError, match="other"):
            load()


def test_the_workers_lists_are_kept_with_a_load_even_of_a_wrong_name(loader: Any, monkeypatch: Any) -> None:
    kept: list[list[str]] = []
    monkeypatch.setattr(loader.lists, "keep", lambda _, entries: kept.append([entry.name for entry in entries]))
    with pytest.raises(UnknownModelError):
        loader.load_remote("other.safetensors", "default")
    assert kept == [[MODEL, "edges.safetensors"]]


def test_the_lists_of_this_machine(loader: Any) -> None:
    assert loader._lists_here() == {
        "models": (MODEL,),
        "checkpoints": (),
        "control_nets": ("edges.safetensors",),
        "text_encoders": (),
        "vaes": (),
        "clip_visions": (),
        "upscale_models": (),
        "audio_encoders": (),
    }


def test_a_loader_runs_again_once_the_settings_name_another_worker(loader: Any, monkeypatch: Any) -> None:
    first = loader.version()
    assert loader.version() == first
    monkeypatch.setattr(loader, "load_settings", lambda: SECOND)
    assert loader.version() > first
    assert loader.version(None) > first
    assert loader.version(False) == 0


def test_with_wrong_settings_a_loader_always_runs(loader: Any, monkeypatch: Any) -> None:
    def fail() -> Settings:
        raise ConfigError("wrong")

    monkeypatch.setattr(loader, "load_settings", fail)
    assert math.isnan(loader.version())


def test_a_warning_of_the_workers_comfyui_follows_the_nodes_line(loader: Any, caplog: Any) -> None:
    remote = loader.load_remote(MODEL, "default").remote
    assert loader.warned(remote) == ""
    remote.description = remote.description.model_copy(update={"warnings": ("missing keys", "more")})
    assert loader.warned(remote) == ". ComfyUI warned there: missing keys"
    loader._log_warnings(remote)
    assert caplog.text.count(f"The worker's ComfyUI warned as it loaded {MODEL}: ") == 2
