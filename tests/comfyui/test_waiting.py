"""The line under a node while its call waits behind another client's at the worker."""

from __future__ import annotations

import re
import threading
from contextlib import ExitStack, suppress

import pytest
import torch

from comfy_gpu_offload import connect
from comfy_gpu_offload.client.remote_model import RemoteModel

from .harness.events import shown_while_running
from .harness.installation import Installation
from .harness.site import Worker
from .harness.workflow import DIGITS, UNET, Sampling, Scene

pytestmark = pytest.mark.comfyui

# Its attention takes a CPU seconds in each of several blocks, between which a cancelled call ends.
_LARGE = 96


class _DoneError(Exception):
    """The other client's call is no longer wanted."""


def occupy(model: RemoteModel) -> None:
    latent = torch.zeros(1, 4, _LARGE, _LARGE, dtype=model.dtype)
    context = torch.zeros(1, UNET.tokens, UNET.width, dtype=model.dtype)
    with suppress(_DoneError):
        while True:
            model(latent, torch.tensor([500.0]), context=context)


def test_the_node_says_behind_whom_it_waits(installation: Installation, worker: Worker) -> None:
    installation.configure_for(worker)
    told = threading.Event()
    waits = re.compile(rf"waiting at the worker behind 1 other: a call of .*{re.escape(UNET.file)}, \d+ s")

    def look(text: str) -> None:
        if waits.fullmatch(text):
            told.set()

    def check() -> None:
        if told.is_set():
            raise _DoneError

    scene = Scene.of(DIGITS)
    scene.sample("KSampler", scene.workflow.remote(DIGITS.file), Sampling(steps=1, seed=700), "waiting")
    with ExitStack() as ending:
        other = ending.enter_context(connect(f"http://127.0.0.1:{worker.port}", worker.token))
        (name,) = (entry.name for entry in other.models() if entry.name.endswith(UNET.file))
        busy = threading.Thread(target=occupy, args=(other.model(name, check=check),))
        busy.start()
        ending.callback(busy.join, 120)
        ending.callback(told.set)
        shown = shown_while_running(installation.url, scene.workflow.graph, look)
    assert told.is_set(), [text for each in shown.values() for text in each.texts]
