"""The encoding of one session's calls: what is chosen for each, and what is learned from it."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator
from dataclasses import replace

import pytest
import torch
from tests.support.backend import FunctionBackend
from tests.support.worker import ThreadWorker

from comfy_gpu_offload import Session, connect
from comfy_gpu_offload.client.background_work import BackgroundWork
from comfy_gpu_offload.client.encoding.adaptive_choice import AdaptiveChoice
from comfy_gpu_offload.client.encoding.link import Link
from comfy_gpu_offload.client.encoding.step_time import EncodingKind
from comfy_gpu_offload.client.model_call import ModelCall
from comfy_gpu_offload.client.session import SessionOptions
from comfy_gpu_offload.errors import UnsupportedStateError
from comfy_gpu_offload.io import codecs
from comfy_gpu_offload.io.tree import pack_call
from comfy_gpu_offload.protocol.messages import FaultCode, ModelRef
from comfy_gpu_offload.transport.base import Check
from comfy_gpu_offload.transport.http_transport import HttpTransport

MODEL = ModelRef(name="double")
X = torch.randn(2, 16, 16, 16, generator=torch.Generator().manual_seed(0))
PACKED = pack_call((X,), {})


@pytest.fixture
def worker() -> Iterator[ThreadWorker]:
    with ThreadWorker(FunctionBackend()) as made:
        yield made


@pytest.fixture
def session(worker: ThreadWorker) -> Iterator[Session]:
    with connect(worker.url, compression="planes") as made:
        yield made


def test_a_forward_call_says_which_history_it_begins_and_a_whole_run_predicts_nothing(session: Session) -> None:
    call, run = session._policy.begin(MODEL, (X,)), session._policy.begin_run(MODEL)
    assert call.prediction is not None
    assert call.prediction.call == 0
    assert run.prediction is None
    assert call.codec is run.codec is codecs.PLANES


@pytest.mark.parametrize(("code", "same_run"), [("unknown_history", True), ("wrong_prediction", False)])
def test_after_a_fault_of_prediction_the_tensor_is_sent_as_it_is(
    session: Session, code: str, same_run: bool
) -> None:
    """A history that the worker does not have is begun again; one that gives other tensors is given up."""
    model = session.model("double")
    for _ in range(2):
        model(X)
    encoding = session._policy.begin(MODEL, (X,))
    (part,) = encoding.parts(PACKED, (X,))
    assert part.tensor is not X
    encoding.send_plainly(FaultCode(code))
    (part,) = encoding.parts(PACKED, (X,))
    assert part.tensor is X
    assert (encoding.prediction is not None) is same_run


def test_a_call_that_torchs_state_refuses_leaves_its_run_to_go_on_with(session: Session) -> None:
    model = session.model("double")
    for _ in range(2):
        model(X)
    torch.set_default_dtype(torch.float64)
    try:
        with pytest.raises(UnsupportedStateError):
            model(X)
    finally:
        torch.set_default_dtype(torch.float32)
    model(X)
    assert model.last_timings is not None
    assert model.last_timings.bytes_up < X.nbytes / 10


def test_what_cannot_be_learned_does_not_fail_the_call(
    worker: ThreadWorker, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(*_: object) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(AdaptiveChoice, "observe", broken)
    with connect(worker.url) as session, caplog.at_level(logging.WARNING, "comfy_gpu_offload"):
        assert torch.equal(session.model("double")(X), 2 * X)
    assert "timings could not be evaluated: ZeroDivisionError" in caplog.text


def test_a_call_teaches_its_uncompressed_sizes(worker: ThreadWorker, monkeypatch: pytest.MonkeyPatch) -> None:
    learned: list[tuple[int, int, int]] = []
    monkeypatch.setattr(AdaptiveChoice, "observe", lambda _, kind, timings, raw: learned.append(raw))
    with connect(worker.url) as session:
        session.model("double")(X)
    assert learned == [(X.nbytes, X.nbytes, X.nbytes)]


@pytest.mark.parametrize(
    ("setting", "for_pictures"),
    [("auto", codecs.PICTURE), ("int8-block", codecs.PICTURE), ("planes", codecs.PLANES), ("none", codecs.RAW)],
)
def test_pictures_are_stored_by_their_codec_and_never_lossily(
    worker: ThreadWorker, setting: str, for_pictures: codecs.Codec
) -> None:
    decoding = ModelCall(MODEL, "f" * 16, (X,), {}, method="decode", has_pictures=True)
    with connect(worker.url, compression=setting) as session:
        policy = session._policy
        if policy._choice is not None:  # to this machine nothing is compressed
            assert policy.begin_other(decoding).codec is codecs.RAW
            policy._choice._kind = EncodingKind.PREDICTED
        assert policy.begin_other(decoding).codec is for_pictures
        assert policy.begin_other(replace(decoding, has_pictures=False)).codec is policy.codec


def test_a_worker_that_lacks_the_codec_for_pictures_is_not_asked_for_it(worker: ThreadWorker) -> None:
    decoding = ModelCall(MODEL, "f" * 16, (X,), {}, method="decode", has_pictures=True)
    with connect(worker.url) as session:
        policy = session._policy
        assert policy._choice is not None
        policy._choice._kind = EncodingKind.CODED
        known = tuple(name for name in session.welcome.codecs if name != codecs.PICTURE.name)
        session._handshake.welcome = session.welcome.model_copy(update={"codecs": known})
        assert policy.begin_other(decoding).codec is codecs.AUTO


class HeldProbe:
    """The link's probe, which waits for `answer`."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.asked, self.answer = threading.Event(), threading.Event()
        monkeypatch.setattr(Link, "probe", self.probe)

    def probe(self, *_: object, check: Check | None = None) -> float:
        self.asked.set()
        while not self.answer.wait(0.01):
            if check is not None:
                check()
        return 0.25


def test_no_call_waits_for_a_probe_on_a_shared_connection(
    worker: ThreadWorker, monkeypatch: pytest.MonkeyPatch
) -> None:
    probe = HeldProbe(monkeypatch)
    probed, measured = AdaptiveChoice.probed, threading.Event()
    monkeypatch.setattr(AdaptiveChoice, "probed", lambda self, seconds: (probed(self, seconds), measured.set()))
    with connect(worker.url, compression="auto") as session:
        model = session.model("double")
        assert torch.equal(model(X), 2 * X)
        assert probe.asked.wait(30)
        probe.answer.set()
        assert measured.wait(30)
        choice = session._policy._choice
        assert choice is not None
        assert choice._empty_s == 0.25


def test_a_connection_that_carries_one_exchange_is_probed_before_the_call(
    worker: ThreadWorker, monkeypatch: pytest.MonkeyPatch
) -> None:
    probe = HeldProbe(monkeypatch)
    options = SessionOptions(codec=codecs.AUTO, begin_with=EncodingKind.RAW)
    with Session(HttpTransport(worker.address), options) as session:
        model = session.model("double")
        assert not probe.asked.is_set()
        probe.answer.set()
        model(X)
        assert probe.asked.is_set()


def test_every_64th_call_is_followed_by_a_probe(worker: ThreadWorker, monkeypatch: pytest.MonkeyPatch) -> None:
    probes: list[int] = []
    with connect(worker.url, compression="auto") as session:
        monkeypatch.setattr(BackgroundWork, "__init__", lambda *_: probes.append(model.calls if probes else 0))
        model = session.model("double")
        for _ in range(130):
            model(X[:1, :1])
    assert probes == [0, 63, 127]
