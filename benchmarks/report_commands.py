"""The commands that `report.py` runs, small enough that all of them take a few minutes."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

FOLDER = Path(__file__).parent


@dataclass(frozen=True)
class Command:
    """A benchmark of this folder, with the arguments that make it small."""

    name: str
    arguments: tuple[str, ...] = ()

    @property
    def path(self) -> Path:
        return FOLDER / f"{self.name}.py"


COMMANDS = (
    Command("transfer_vs_compute", ("--check", "--steps", "8", "--naive", "base64 in JSON", "--through", "nginx")),
    Command("prediction"),
    Command("warm_connections", ("--check", "--calls", "5")),
    Command("first_step", ("--repeats", "5")),
    Command("tune", ("--check", "--compute", "0.3", "--steps", "8")),
    Command("whole_loop", ("--steps", "10")),
    Command("http_clients"),
    Command("call_overhead"),
    Command("websocket_libraries", ("--exchanges", "30")),
    Command("codecs", ("--repeats", "7")),
    Command("quality", ("--per-class", "4", "--steps", "5", "20")),
    Command("upload", ("--size-mb", "60", "--what", "lora", "--carrier", "WebSocket", "HTTP")),
)
"""In the order of the report, whose template names each once."""

APART = {
    "faults_run": "takes minutes, and counts how runs end",
    "model_transfer": "writes gigabytes to the disk, whose speed it depends on",
    "real_model": "needs a ComfyUI installation and a GPU",
    "stand_in": "needs a ComfyUI installation",
    "queue_prompt": "needs a ComfyUI installation",
    "whole_picture": "needs a ComfyUI installation for its prompts",
    "train_digits": "trains the demo's model and measures nothing",
}
"""Commands that the report does not run, and why."""
