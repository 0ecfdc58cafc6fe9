"""The lists that combos offer: asked of a worker where that costs nothing, else those that are known."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from comfy_gpu_offload.config.settings import Settings
from comfy_gpu_offload.errors import ConfigError, ConnectError, ExchangeTimeoutError, UnauthorizedError
from comfy_gpu_offload.protocol.messages import ModelEntry
from comfy_gpu_offload.protocol.messages.model_downloads import MODEL_DOWNLOADS

ENTRIES = (
    ModelEntry(name="a.safetensors", folder="diffusion_models", size_bytes=1),
    ModelEntry(name="edges.safetensors", folder="controlnet", size_bytes=1),
    ModelEntry(name="clip_l.safetensors", folder="text_encoders", size_bytes=1),
    # Of a name that another folder has as well.
    ModelEntry(name="checkpoints/b.safetensors", folder="checkpoints", size_bytes=1),
    ModelEntry(name="sd.safetensors", folder="vae", size_bytes=1),
    ModelEntry(name="taesd", folder="vae_approx", size_bytes=1),
    ModelEntry(name="h.safetensors", folder="clip_vision", size_bytes=1),
    ModelEntry(name="checkpoints/b.safetensors", folder="clip_vision", size_bytes=1),
    ModelEntry(name="4x.pth", folder="upscale_models", size_bytes=1),
    ModelEntry(name="speech.safetensors", folder="audio_encoders", size_bytes=1),
    # Of a kind that later releases may have.
    ModelEntry(name="style.safetensors", folder="style_models", size_bytes=1),
)
LISTS = {
    "models": ("a.safetensors", "checkpoints/b.safetensors"),
    "checkpoints": ("b.safetensors",),
    "control_nets": ("edges.safetensors",),
    "text_encoders": ("clip_l.safetensors",),
    "vaes": ("sd.safetensors", "taesd"),
    "clip_visions": ("h.safetensors", "checkpoints/b.safetensors"),
    "upscale_models": ("4x.pth",),
    "audio_encoders": ("speech.safetensors",),
}
HERE = {
    "models": ("here.safetensors",),
    "checkpoints": (),
    "control_nets": (),
    "text_encoders": (),
    "vaes": (),
    "clip_visions": (),
    "upscale_models": (),
    "audio_encoders": (),
}


class Sessions:
    """An open session, once there is one."""

    def __init__(self) -> None:
        self.session: Any = None

    def known(self, _: Settings) -> Any:
        return self.session


@pytest.fixture
def site(comfy_stand_in: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """Give the lists of a worker that records how it is `asked`, and answers with `entries` or an error."""
    from comfy_gpu_offload.comfyui.client import model_lists
    from comfy_gpu_offload.comfyui.client.model_list_cache import KeptLists

    made = SimpleNamespace(asked=[], entries=ENTRIES, capabilities=(), clock=0.0, sessions=Sessions(), settings={})

    def answered(check: Any) -> Any:
        if isinstance(made.entries, BaseException):
            raise made.entries
        made.check = check
        return made.entries

    @contextmanager
    def connect(settings: Settings, release: Any, notify: Any, check: Any) -> Iterator[Any]:
        made.asked.append(settings)
        yield SimpleNamespace(welcome=welcome(answered(check), made.capabilities))

    made.answered = answered
    monkeypatch.setattr(model_lists, "connect_from", connect)
    monkeypatch.setattr(model_lists, "monotonic", lambda: made.clock)
    monkeypatch.setattr(model_lists, "load_settings", lambda: loaded(made.settings))
    kept = KeptLists(tmp_path / "lists.json")
    made.lists = model_lists.WorkerLists(made.sessions, kept, lambda: HERE)
    return made


def welcome(entries: Any, capabilities: tuple[str, ...] = ()) -> Any:
    return SimpleNamespace(models=entries, capabilities=capabilities, codecs=())


def loaded(settings: Any) -> Settings:
    if isinstance(settings, BaseException):
        raise settings
    return Settings(**settings)


DIRECT = {"url": "http://127.0.0.1:8288"}
ENDPOINT = {"runpod_endpoint_id": "abc", "runpod_api_key": "key"}


def answer(site: Any, reason: str, settings: Any = DIRECT) -> tuple[str, Any, str]:
    site.settings = settings
    found = site.lists.answer(reason)
    return found.state, dict(found.lists), found.text


@pytest.mark.parametrize("reason", ["open", "refresh", "click"])
def test_a_worker_is_asked(site: Any, reason: str) -> None:
    assert answer(site, reason) == ("listed", LISTS, "")
    assert len(site.asked) == 1


def test_a_worker_is_not_asked_after_a_run(site: Any) -> None:
    assert answer(site, "run") == ("unasked", {}, "")
    answer(site, "open")
    assert answer(site, "run") == ("kept", LISTS, "")
    assert len(site.asked) == 1


def test_many_tabs_that_open_share_an_answer_for_a_while(site: Any) -> None:
    answer(site, "open")
    site.clock = 9.0
    answer(site, "open")
    assert len(site.asked) == 1
    answer(site, "refresh")
    assert len(site.asked) == 2
    site.clock = 20.0
    answer(site, "open")
    answer(site, "open", {"url": "http://127.0.0.1:8289"})
    assert len(site.asked) == 4


@pytest.mark.parametrize("reason", ["open", "refresh", "run"])
def test_an_endpoint_is_not_asked_but_on_a_click(site: Any, reason: str) -> None:
    state, lists, text = answer(site, reason, ENDPOINT)
    assert (state, lists) == ("unasked", {})
    assert "costs money" in text
    assert answer(site, "click", ENDPOINT) == ("listed", LISTS, "")
    assert answer(site, reason, ENDPOINT) == ("kept", LISTS, "")
    assert len(site.asked) == 1


def test_what_a_run_learnt_is_kept(site: Any) -> None:
    site.lists.keep(Settings(**ENDPOINT), ENTRIES)
    assert answer(site, "open", ENDPOINT) == ("kept", LISTS, "")


def test_without_a_worker_the_files_here_are_offered(site: Any) -> None:
    state, lists, text = answer(site, "open", {})
    assert (state, lists) == ("here", HERE)
    assert "COMFY_GPU_OFFLOAD_URL or RUNPOD_ENDPOINT_ID" in text


def test_wrong_settings_are_said(site: Any) -> None:
    assert answer(site, "open", ConfigError("Wrong settings: x")) == ("failed", {}, "Wrong settings: x")


def test_a_worker_that_is_away_leaves_the_last_lists(site: Any) -> None:
    answer(site, "click")
    site.entries = ConnectError("no connection")
    assert answer(site, "click") == ("failed", LISTS, "Worker not reachable: no connection")
    site.entries = UnauthorizedError("The token is wrong.", code="unauthorized")
    assert answer(site, "click") == ("failed", LISTS, "The token is wrong.")


def test_a_user_does_not_wait_as_long_as_a_run(site: Any) -> None:
    answer(site, "click", DIRECT | {"retry_s": 120.0})
    assert site.asked[0].retry_s == 3.0
    site.clock = 19.0
    site.check()
    site.clock = 21.0
    with pytest.raises(ExchangeTimeoutError, match="no answer within 20 s"):
        site.check()


def test_whether_a_worker_takes_models_is_known_until_it_is_asked_again(site: Any) -> None:
    for capabilities in ((MODEL_DOWNLOADS,), ()):
        site.capabilities = capabilities
        answer(site, "click")
        for reason in ("click", "run"):
            assert site.lists.answer(reason).takes_models is bool(capabilities)


def test_an_open_session_is_asked_and_no_other_is_opened(site: Any) -> None:
    site.sessions.session = SimpleNamespace(models=lambda *, check: site.answered(check), welcome=welcome(ENTRIES))
    assert answer(site, "click") == ("listed", LISTS, "")
    assert site.asked == []
