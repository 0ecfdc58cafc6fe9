from __future__ import annotations

import logging

import pytest
from tests.protocol.examples import example_of
from tests.support.backend import FunctionBackend

from comfy_gpu_offload.client.session import Session
from comfy_gpu_offload.io import codecs
from comfy_gpu_offload.protocol.capabilities import (
    CAPABILITIES,
    OF_MODEL_FILES,
    PREDICTED,
    STRIDES,
    announcement,
    known_names,
    knows,
    lacking,
)
from comfy_gpu_offload.protocol.messages import Hello, Welcome
from comfy_gpu_offload.server.handler import Handler
from comfy_gpu_offload.transport.loopback import LoopbackTransport


def test_sides_of_this_release_name_capabilities_apart_from_codecs() -> None:
    with Session(LoopbackTransport(Handler(FunctionBackend()))) as session:
        assert set(session.welcome.capabilities or ()) == {*CAPABILITIES} - OF_MODEL_FILES
        assert session.welcome.codecs == codecs.names()
        assert not lacking(session.welcome)


@pytest.mark.parametrize("among_codecs", [False, True])
@pytest.mark.parametrize("kind", [Hello, Welcome])
def test_both_forms_of_an_announcement_say_the_same(kind: type[Hello | Welcome], among_codecs: bool) -> None:
    announced = announcement((STRIDES,), among_codecs=among_codecs)
    peer = example_of(kind).model_copy(update=dict(announced))
    assert ("capabilities" in peer.fields()) is not among_codecs
    assert knows(peer, STRIDES)
    assert not knows(peer, PREDICTED)
    assert known_names(peer) == {*codecs.names(), STRIDES}
    assert lacking(peer) == tuple(name for name in CAPABILITIES if name not in {STRIDES, *OF_MODEL_FILES})


def test_a_codec_of_a_capabilitys_name_is_no_capability() -> None:
    peer = example_of(Welcome).model_copy(update={"codecs": (STRIDES,), "capabilities": ()})
    assert not knows(peer, STRIDES)


def test_unknown_capabilities_mean_nothing() -> None:
    peer = example_of(Welcome).model_copy(update={"capabilities": (*CAPABILITIES, "of_tomorrow")})
    assert not lacking(peer)


def test_a_worker_that_lacks_a_capability_is_named_in_a_warning(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("comfy_gpu_offload.server.answers.hello.CAPABILITIES", (STRIDES,))
    with caplog.at_level(logging.WARNING), Session(LoopbackTransport(Handler(FunctionBackend()))):
        pass
    assert "lacks capabilities that this side (0.1.0) has: predicted, autocast" in caplog.text
