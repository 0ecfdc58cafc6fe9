"""What a worker says of itself and of its models."""

from __future__ import annotations

import logging
import secrets

import torch

from ..backends.base import Backend, Described, Listing
from ..io import codecs, tree
from ..io.frame import EncodedFrame
from ..protocol.abilities import ABILITIES, STRIDES
from ..protocol.envelope import parts_of, seal, seal_parts
from ..protocol.messages import LONGEST_PATH, MAX_SKIPPED, Hello, Skipped, SkippedEntry, Welcome, WorkerLimits
from ..version import __version__
from .callers import PATIENT, Caller
from .executor import Executor
from .job_replies import Finish, answered

logger = logging.getLogger(__name__)


class Handshake:
    """Answers hellos. Thread-safe.

    Args:
        instance: this start of the worker.
    """

    def __init__(self, backend: Backend, executor: Executor, instance: str, limits: WorkerLimits) -> None:
        self._backend = backend
        self._executor = executor
        self._instance = instance
        self._limits = limits

    def begin(self, hello: Hello, caller: Caller = PATIENT) -> Finish:
        """Queue the loading of the model that `caller` asks for; what needs none waits for nobody."""
        ref = hello.model
        if ref is None:
            welcome = seal(self._welcome(None, hello.request))
            return lambda: welcome
        logger.info("model %s (%s) asked for", ref.name, ref.weight_dtype)

        def describe(_: float) -> EncodedFrame:
            described = self._backend.describe(ref)
            packed = tree.pack(described.details, "details")
            parts = parts_of(packed, STRIDES in hello.codecs)
            return seal_parts(self._welcome(described, hello.request), packed.skeleton, parts)

        name = hello.request or secrets.token_hex(16)
        place = f"{ref.weight_dtype} {ref.name}"  # the same when it is asked for again
        turn = self._executor.enter(hello.client, name, f"loading {ref.name}", caller, place=place)
        return lambda: answered(turn, describe)

    def _welcome(self, described: Described | None, request: str | None) -> Welcome:
        info, listing = self._backend.info(), self._backend.listing()
        return Welcome(
            instance=self._instance,
            package=__version__,
            torch=torch.__version__,
            comfyui=info.comfyui,
            backend=info.name,
            device=info.device,
            codecs=(*codecs.names(), *ABILITIES),
            limits=self._limits,
            models=listing.models,
            skipped=_skipped(listing.skipped),
            folders=None if _has_models(listing) else tuple(path[:LONGEST_PATH] for path in info.folders),
            model=None if described is None else described.description,
            request=request,
        )


def _has_models(listing: Listing) -> bool:
    return any(entry.folder != "controlnet" for entry in listing.models)


def _skipped(entries: tuple[SkippedEntry, ...]) -> Skipped | None:
    return Skipped(count=len(entries), entries=entries[:MAX_SKIPPED]) if entries else None
