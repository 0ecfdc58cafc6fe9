"""The context that all parts of a rental share: RunPod, the settings, the records, the user."""

from __future__ import annotations

from dataclasses import dataclass

from ..config.settings import Settings
from ..runpod.rest.client import RestClient
from .interruptions import Interruptions
from .progress import Progress
from .records import Records


@dataclass(frozen=True)
class RentalContext:
    """RunPod's API, the settings in force, the records, and the user: what is told, and interruptions."""

    api: RestClient
    settings: Settings
    records: Records
    progress: Progress
    interruptions: Interruptions
