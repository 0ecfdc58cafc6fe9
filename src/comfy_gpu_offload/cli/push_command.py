"""The command `push`: sends a model file of this machine to the configured worker."""

from __future__ import annotations

import argparse
from pathlib import Path

from ..backends.base import ModelFileError
from ..backends.weight_files import check_weight_file
from ..client.connect import connect_from
from ..client.model_files import PUSHED
from ..config.findings import checked_settings
from ..errors import ConfigError, ModelPushError
from ..protocol.messages import MODULE_FOLDERS
from .arguments import existing_file, short_text
from .byte_progress import ByteProgress
from .exit_status import INTERRUPTED

# ComfyUI's names of folders, and older ones of theirs.
_FOLDERS = {
    **{name: name for name in ("diffusion_models", "checkpoints", *sorted(MODULE_FOLDERS))},
    "unet": "diffusion_models",
    "clip": "text_encoders",
    "t2i_adapter": "controlnet",
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's options."""
    parser.add_argument("file", type=existing_file, metavar="FILE", help="a .safetensors or .gguf file")
    parser.add_argument(
        "--folder",
        metavar="NAME",
        help="ComfyUI's name of the folder that it is for, as diffusion_models or vae (default: the one that "
        "FILE lies in here, if that has such a name)",
    )
    parser.add_argument("--name", type=short_text(200), help="its name at the worker (default: as here)")
    parser.add_argument(
        "--upload",
        action="store_true",
        help="send the file even where the worker could fetch it from the site that has it, by its hash",
    )
    parser.epilog = (
        "The worker is the one in COMFY_GPU_OFFLOAD_URL, or the endpoint in RUNPOD_ENDPOINT_ID. A push that was "
        "interrupted goes on from where it was when the command is given again."
    )


def run(options: argparse.Namespace) -> int:
    """Push the file; return the exit status: 130 after Ctrl-C, when the worker keeps what it has.

    Raises:
        ConfigError: no worker is configured, or the folder is not said and cannot be guessed.
        OffloadError: the file cannot be pushed, or the worker refuses it or cannot be reached.
    """
    file: Path = options.file
    folder = options.folder or guessed_folder(file)
    _refuse_damaged(file)
    settings = checked_settings()
    with ByteProgress() as line, connect_from(settings) as session:
        try:
            found = session.push_model(
                file,
                folder,
                options.name,
                on_work=line.show,
                uploads=options.upload,
                civitai_token=settings.civitai_token,
            )
        except KeyboardInterrupt:
            line.end()
            print(f"Stopped. The worker keeps what it has of {file.name}: the same command goes on from there.")
            return INTERRUPTED
    origin = "" if found.source == PUSHED else f" It came from {found.source}: nothing was uploaded."
    print(f"{found.name} is at the worker now, in {found.folder}.{origin}")
    return 0


def _refuse_damaged(file: Path) -> None:
    """Refuse a file that the worker would refuse at its end.

    Raises:
        ModelPushError: it is cut off, a web page or otherwise no model.
    """
    try:
        check_weight_file(file)
    except ModelFileError as error:
        raise ModelPushError(str(error)) from None


def guessed_folder(file: Path) -> str:
    """Return ComfyUI's name of the folder that the file lies in, at whatever depth.

    Raises:
        ConfigError: it lies in none.
    """
    for parent in file.absolute().parents:
        if parent.name in _FOLDERS:
            return _FOLDERS[parent.name]
    raise ConfigError(f"Say by --folder what {file.name} is: {', '.join(sorted(set(_FOLDERS.values())))}.")
