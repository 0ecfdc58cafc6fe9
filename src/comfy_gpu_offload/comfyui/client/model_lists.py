"""The lists of models and modules for the loaders' combos; an endpoint that bills is asked only on a click."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from time import monotonic
from typing import Literal

from ...client.connect import connect_from
from ...config.endpoint import Direct, Serverless, configured
from ...config.settings import PREFIX, Settings, load_settings
from ...errors import ExchangeTimeoutError, OffloadError, TransportError
from ...protocol.capabilities import knows
from ...protocol.messages import ModelEntry, Welcome
from ...protocol.messages.model_downloads import MODEL_DOWNLOADS
from ...transport.base import Check
from ..installation import release
from ..installation.folder_names import (
    APPROXIMATE_VAE_FOLDER,
    AUDIO_ENCODER_FOLDER,
    CHECKPOINT_FOLDER,
    CLIP_VISION_FOLDER,
    CONTROL_NET_FOLDER,
    TEXT_ENCODER_FOLDER,
    UPSCALE_MODEL_FOLDER,
    VAE_FOLDER,
)
from .model_list_cache import KeptLists
from .worker_sessions import Sessions

logger = logging.getLogger(__name__)

Lists = Mapping[str, tuple[str, ...]]
# Why a page asks: it or a workflow was opened, all nodes are refreshed, a node's button was clicked, a run ended.
Reason = Literal["open", "refresh", "click", "run"]
State = Literal["listed", "kept", "here", "unasked", "failed"]

MODELS = "models"
CONTROL_NETS = "control_nets"
TEXT_ENCODERS = "text_encoders"
CHECKPOINTS = "checkpoints"
VAES = "vaes"
CLIP_VISIONS = "clip_visions"
UPSCALE_MODELS = "upscale_models"
AUDIO_ENCODERS = "audio_encoders"
# The lists that the files of a worker's folder are in; those of folders that are not known here are in none.
_LISTS_OF: Mapping[str, tuple[str, ...]] = {
    "diffusion_models": (MODELS,),
    CHECKPOINT_FOLDER: (MODELS, CHECKPOINTS),
    "diffusers": (MODELS,),
    CONTROL_NET_FOLDER: (CONTROL_NETS,),
    TEXT_ENCODER_FOLDER: (TEXT_ENCODERS,),
    VAE_FOLDER: (VAES,),
    APPROXIMATE_VAE_FOLDER: (VAES,),
    CLIP_VISION_FOLDER: (CLIP_VISIONS,),
    UPSCALE_MODEL_FOLDER: (UPSCALE_MODELS,),
    AUDIO_ENCODER_FOLDER: (AUDIO_ENCODERS,),
}
KINDS = (MODELS, CONTROL_NETS, TEXT_ENCODERS, CHECKPOINTS, VAES, CLIP_VISIONS, UPSCALE_MODELS, AUDIO_ENCODERS)

# Shorter than a run's, because a user waits for the list.
_RETRY_S = 3.0
_ANSWER_S = 20.0
# For this time one answer serves all of a browser's tabs, and a workflow that is opened right after its page.
_FRESH_S = 10.0
_UNASKED = "The endpoint was not asked for its list, since that starts a worker, which costs money."
_NO_WORKER = f"No worker is configured ({PREFIX}URL or RUNPOD_ENDPOINT_ID): these are this machine's own files."


@dataclass(frozen=True)
class Answer:
    """The lists that the combos offer, with their origin.

    Attributes:
        lists: names by the list's kind.
        state: `listed`: just asked of the worker; `kept`: from an earlier answer; `here`: this machine's own files;
            `unasked`: empty, since the worker was never asked; `failed`: the last known, since asking failed.
        text: a message for the user, or empty.
        takes_models: whether the worker fetches models for its clients, as far as is known.
    """

    lists: Lists
    state: State
    text: str = ""
    takes_models: bool = False


class WorkerLists:
    """The lists of the worker that the settings name. Thread-safe."""

    def __init__(self, sessions: Sessions, kept: KeptLists, here: Callable[[], Lists]) -> None:
        """Take the open sessions, the kept lists, and a function `here` that lists this machine's own files."""
        self._sessions = sessions
        self._kept = kept
        self._here = here
        self._asking = threading.Lock()
        # By worker; as it said when it was last asked.
        self._taking: dict[str, bool] = {}
        self._last: tuple[Settings, float, Answer] | None = None

    def answer(self, reason: Reason) -> Answer:
        """Return the lists, and ask the worker for them if `reason` allows it.

        An endpoint that bills is asked on a click only. After a run no worker is asked, because the run has already
        kept its lists (`keep`).
        """
        try:
            settings = load_settings()
            if settings.url is None and settings.runpod_endpoint_id is None:
                return Answer(self._here(), "here", _NO_WORKER)
            target = configured(settings)
        except OffloadError as error:
            return Answer({}, "failed", str(error))
        if reason == "click" or (reason != "run" and isinstance(target, Direct)):
            with self._asking:
                return self._fresh(settings) if reason == "open" else self._asked(settings, target)
        return self._known(target)

    def keep(self, settings: Settings, entries: Iterable[ModelEntry]) -> None:
        """Keep the lists that a worker has sent with a run."""
        self._kept.put(_name(configured(settings)), _by_kind(entries))

    def _known(self, target: Direct | Serverless) -> Answer:
        lists = self._kept.get(_name(target))
        if lists is None:
            return Answer({}, "unasked", _UNASKED if isinstance(target, Serverless) else "")
        return Answer(lists, "kept", takes_models=self._takes_models(target))

    def _fresh(self, settings: Settings) -> Answer:
        if self._last is not None:
            asked_for, at, answer = self._last
            if asked_for == settings and monotonic() - at < _FRESH_S:
                return answer
        return self._asked(settings, configured(settings))

    def _asked(self, settings: Settings, target: Direct | Serverless) -> Answer:
        try:
            welcome = self._welcome(settings, target)
        except OffloadError as error:
            logger.warning("The worker's models cannot be listed: %s", error)
            text = f"Worker not reachable: {error}" if isinstance(error, TransportError) else str(error)
            answer = Answer(self._kept.get(_name(target)) or {}, "failed", text)
        else:
            lists = _by_kind(welcome.models)
            self._kept.put(_name(target), lists)
            self._taking[_name(target)] = knows(welcome, MODEL_DOWNLOADS)
            answer = Answer(lists, "listed", takes_models=self._takes_models(target))
        self._last = settings, monotonic(), answer
        return answer

    def _takes_models(self, target: Direct | Serverless) -> bool:
        return self._taking.get(_name(target), False)

    def _welcome(self, settings: Settings, target: Direct | Serverless) -> Welcome:
        check = _until(_ANSWER_S if isinstance(target, Direct) else _ANSWER_S + settings.wake_timeout_s)
        session = self._sessions.known(settings)
        if session is not None:
            session.models(check=check)
            return session.welcome
        hasty = settings.model_copy(update={"retry_s": min(settings.retry_s, _RETRY_S)})
        with connect_from(hasty, release.here(), _log, check) as session:
            return session.welcome


def _by_kind(entries: Iterable[ModelEntry]) -> Lists:
    lists: dict[str, list[str]] = {kind: [] for kind in KINDS}
    for entry in entries:
        for kind in _LISTS_OF.get(entry.folder, ()):
            # A model is shown with its folder where another folder has the name as well.
            name = entry.name.removeprefix(f"{CHECKPOINT_FOLDER}/") if kind == CHECKPOINTS else entry.name
            lists[kind].append(name)
    return {kind: tuple(names) for kind, names in lists.items()}


def _name(target: Direct | Serverless) -> str:
    return str(target.address) if isinstance(target, Direct) else target.endpoint_id


def _until(seconds: float) -> Check:
    """Return a check that raises ExchangeTimeoutError once `seconds` are over."""
    deadline = monotonic() + seconds

    def check() -> None:
        if monotonic() > deadline:
            raise ExchangeTimeoutError(
                f"no answer within {seconds:.0f} s. The worker may be busy: ask again later."
            )

    return check


def _log(text: str) -> None:
    logger.info("%s", text)
