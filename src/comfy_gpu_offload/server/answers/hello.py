"""Answers `hello`: describes the worker, and loads and describes the model that a client asks for."""

from __future__ import annotations

import logging
import secrets
from typing import TYPE_CHECKING

import torch

from ...backends.base import Described
from ...io import tree
from ...io.frame import EncodedFrame
from ...protocol.capabilities import (
    CAPABILITIES,
    MODULES,
    OF_MODEL_FILES,
    PACKED_HEADERS,
    STRIDES,
    announcement,
    knows,
)
from ...protocol.envelope import parts_of, seal_parts
from ...protocol.messages import LONGEST_PATH, MAX_SKIPPED, Hello, Skipped, SkippedEntry, Welcome
from ...version import __version__
from ..model_store.listed_origins import with_origins
from ..replies import Finish, answered
from .table import Asked, answers

if TYPE_CHECKING:
    from ..worker_parts import WorkerParts

logger = logging.getLogger(__name__)


@answers(Hello)
def begin_hello(worker: WorkerParts, message: Hello, asked: Asked) -> Finish:
    """Queue the loading of the model that the client names; a hello without one waits for nobody."""
    ref, packs = message.model, knows(message, PACKED_HEADERS)
    if ref is None:
        welcome = seal_parts(_welcome(worker, message, None), None, [], packs_header=packs)
        return lambda: welcome
    worker.backend.refuse_modules(ref)
    logger.info("model %s (%s) asked for", ref.name, ref.weight_dtype)

    def describe(_: float) -> EncodedFrame:
        described = worker.backend.describe(ref)
        packed = tree.pack(described.details, "details")
        parts = parts_of(packed, knows(message, STRIDES))
        welcome = _welcome(worker, message, described)
        return seal_parts(welcome, packed.skeleton, parts, packs_header=packs)

    name = message.request or secrets.token_hex(16)
    place = f"{ref.weight_dtype} {ref.name}"  # the same for every request for this model
    turn = worker.executor.enter(message.client, name, f"loading {ref.name}", asked.caller, place=place)
    return lambda: answered(turn, describe)


def _welcome(worker: WorkerParts, hello: Hello, described: Described | None) -> Welcome:
    info = worker.backend.info()
    listing = with_origins(worker.backend.listing(), worker.backend.model_folders())
    return Welcome(
        instance=worker.instance,
        package=__version__,
        torch=torch.__version__,
        comfyui=info.comfyui,
        backend=info.name,
        device=info.device,
        limits=worker.limits,
        models=listing.models + (listing.modules if knows(hello, MODULES) else ()),
        skipped=_skipped(listing.skipped),
        folders=None if listing.models else tuple(path[:LONGEST_PATH] for path in info.folders),
        model=None if described is None else described.description,
        request=hello.request,
        **announcement(_capabilities(worker), among_codecs=hello.capabilities is None),
    )


def _capabilities(worker: WorkerParts) -> tuple[str, ...]:
    return tuple(name for name in CAPABILITIES if worker.takes_models or name not in OF_MODEL_FILES)


def _skipped(entries: tuple[SkippedEntry, ...]) -> Skipped | None:
    return Skipped(count=len(entries), entries=entries[:MAX_SKIPPED]) if entries else None
