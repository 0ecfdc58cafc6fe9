"""A ComfyUI whose pack is configured as a user does it: by the `.env` in the pack's folder."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import requests

from .site import ComfyUI, Worker

# A user who has seen the tour; otherwise templates or a tutorial open over the graph.
_SETTINGS = {"Comfy.Locale": "en", "Comfy.TutorialCompleted": True, "Comfy.Workflow.ShowMissingModelsWarning": True}


@dataclass
class Installation:
    """A running ComfyUI, and the pack's settings."""

    comfyui: ComfyUI

    @property
    def url(self) -> str:
        return self.comfyui.api.url

    @property
    def env_file(self) -> Path:
        return self.comfyui.pack / ".env"

    def configure(self, **variables: str) -> None:
        """Write `.env` with these variables alone."""
        self.env_file.write_text("".join(f"{name}={value}\n" for name, value in variables.items()))

    def configure_for(self, worker: Worker) -> None:
        """Write `.env` for that worker."""
        self.configure(
            COMFY_GPU_OFFLOAD_URL=f"http://127.0.0.1:{worker.port}", COMFY_GPU_OFFLOAD_TOKEN=worker.token
        )

    def reset_user(self, **settings: Any) -> None:
        """Give ComfyUI's user the frontend's settings that tests expect, with `settings` besides."""
        reply = requests.post(f"{self.url}/api/settings", data=json.dumps({**_SETTINGS, **settings}), timeout=60)
        reply.raise_for_status()
