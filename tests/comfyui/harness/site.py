"""A ComfyUI with the pack installed, a worker, and the proxy between them."""

from __future__ import annotations

import secrets
import shutil
import socket
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import torch
from safetensors.torch import load_file
from tests.support.registry_archive import new_files, packed_files

from .api import ComfyApi, Graph, Outcome
from .checkouts import Checkout
from .process import Process
from .proxy import Proxy

REPOSITORY = Path(__file__).resolve().parents[3]
_HERE = Path(__file__).resolve().parents[1]
_START_S = 120.0
_IGNORED = shutil.ignore_patterns("__pycache__", "*.pyc")


@dataclass
class Worker:
    """A worker process that can be killed, and started again at the same address.

    Attributes:
        source: the folder that the package is imported from.
        options, settings: further ones of the command, and of its environment.
    """

    checkout: Checkout
    python: Path
    folder: Path
    models_yaml: Path
    token: str
    source: Path = REPOSITORY / "src"
    options: tuple[str, ...] = ()
    settings: dict[str, str] = field(default_factory=dict)
    processes: list[Process] = field(default_factory=list)
    port: int = 0

    def begin(self) -> None:
        """Start the worker."""
        command = [self.python, "-m", "comfy_gpu_offload", "--log-level", "DEBUG"]
        command += [
            "worker",
            "--backend",
            "comfyui",
            "--comfyui",
            self.checkout.root,
            "--port",
            str(self.port),
        ]
        command += ["--extra-model-paths-config", self.models_yaml, "--cpu", *self.options]
        env = {
            "COMFY_GPU_OFFLOAD_TOKEN": self.token,
            "COMFYUI_PYTHON": str(self.python),
            "PYTHONPATH": str(self.source),
            "COMFY_GPU_OFFLOAD_UPLOAD_FOLDER": str(self.folder / "uploads"),
            **self.settings,
        }
        self.processes.append(Process("worker", command, self.folder, env))

    def await_ready(self) -> None:
        """Wait for the line that says where it listens."""
        line = self.process.wait_for_line(r"^listening on http://127\.0\.0\.1:(\d+)$", _START_S)
        self.port = int(line[1])

    def stop(self) -> None:
        """End the process that runs now."""
        self.process.stop()

    @property
    def process(self) -> Process:
        return self.processes[-1]


@dataclass
class ComfyUI:
    """A ComfyUI server with our pack and the tests' own in its custom_nodes."""

    checkout: Checkout
    process: Process
    api: ComfyApi
    base: Path

    @property
    def pack(self) -> Path:
        """The folder that our pack is installed in."""
        return self.base / "custom_nodes" / "comfy-gpu-offload"

    def saved(self, name: str) -> torch.Tensor:
        """Return the latent that a workflow saved under `name`; each can be read once."""
        file = self.base / "output" / f"{name}.safetensors"
        samples = load_file(file)["samples"]
        file.unlink()
        return samples

    def offered(self, kind: str, reason: str = "click") -> list[str]:
        """Return the names that a combo of that kind offers; the worker is asked, as by the node's button."""
        names: list[str] = self.api.post("/comfy_gpu_offload/lists", {"reason": reason})["lists"][kind]
        return names

    def offered_models(self) -> list[str]:
        """Return the models that the frontend lists in our loader's combo."""
        return self.offered("models")

    def run(self, graph: Graph, timeout_s: float = 180.0) -> Outcome:
        """Run a prompt that must succeed."""
        outcome = self.api.run(graph, timeout_s)
        assert outcome.succeeded, outcome.summary
        return outcome


@dataclass(frozen=True)
class Site:
    """A ComfyUI, a worker and the proxy between them, for one checkout."""

    checkout: Checkout
    python: Path
    comfyui: ComfyUI
    worker: Worker
    proxy: Proxy
    token: str


def new_token() -> str:
    """Return a token whose appearance in a log is no coincidence."""
    return f"token-{secrets.token_hex(16)}"


def write_models_yaml(folder: Path) -> Path:
    """Write an extra_model_paths.yaml for models in `folder`."""
    yaml = folder / "extra_model_paths.yaml"
    kinds = ("checkpoints", "diffusion_models", "loras", "controlnet", "text_encoders", "vae", "upscale_models")
    yaml.write_text("\n".join(["tests:", f"  base_path: {folder}", *(f"  {kind}: {kind}" for kind in kinds), ""]))
    return yaml


def install_pack(base: Path) -> Path:
    """Install the pack as ComfyUI-Manager does: what the registry distributes, with what is not in git yet.

    Returns:
        The pack's folder.
    """
    pack = base / "custom_nodes" / "comfy-gpu-offload"
    for path in (*packed_files(), *new_files()):
        (pack / path).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(REPOSITORY / path, pack / path)
    shutil.copytree(_HERE / "pack", base / "custom_nodes" / "offload-test-nodes", ignore=_IGNORED)
    return pack


def begin_comfyui(
    checkout: Checkout, python: Path, base: Path, models_yaml: Path, env: Mapping[str, str]
) -> ComfyUI:
    """Start a ComfyUI on a base directory of its own."""
    for name in ("input", "output", "temp", "user", "models"):
        (base / name).mkdir(parents=True, exist_ok=True)
    port = free_port()
    command: list[str | Path] = [python, checkout.root / "main.py", "--cpu", "--disable-auto-launch"]
    command += ["--port", str(port), "--base-directory", base, "--extra-model-paths-config", models_yaml]
    command += ["--database-url", f"sqlite:///{base / 'comfyui.db'}", "--disable-api-nodes"]
    command += ["--preview-method", "auto", "--verbose", "DEBUG"]
    process = Process("ComfyUI", command, base, env)
    return ComfyUI(checkout, process, ComfyApi(f"http://127.0.0.1:{port}"), base)


def await_comfyui(comfyui: ComfyUI) -> None:
    """Wait until it takes prompts."""
    comfyui.process.wait_for_line(r"To see the GUI go to", _START_S)


def free_port() -> int:
    """Return a port that nobody listens on."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        port: int = server.getsockname()[1]
        return port
