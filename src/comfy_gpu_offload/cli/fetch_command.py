"""The command `fetch`: has the configured worker download a model into its own folders."""

from __future__ import annotations

import argparse
import hashlib
import os
import re
import sys
from pathlib import Path
from typing import Any

from ..client.connect import connect_from
from ..client.model_downloads import FetchProgress
from ..config.findings import checked_settings
from ..errors import OffloadError, WorkerFaultError
from ..protocol.messages import FaultCode
from .arguments import existing_file, short_text
from .byte_progress import ByteProgress

_INTERRUPTED = 130
_BLOCK = 4 * 1024**2
_IS_SOURCE = re.compile(r"(?:https?://|hf:|civitai:|sha256:).*", re.IGNORECASE)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's options."""
    parser.epilog = (
        "The worker is the one in COMFY_GPU_OFFLOAD_URL, or the endpoint in RUNPOD_ENDPOINT_ID. Gated models need "
        "HF_TOKEN or CIVITAI_TOKEN here; the worker keeps neither. Ctrl-C stops the download, and the same command "
        "continues it."
    )
    parser.add_argument(
        "source",
        metavar="SOURCE",
        help="https://HOST/FILE, hf:ORG/NAME/FILE[@REVISION], civitai:VERSION, sha256:HASH, or a file of your own, "
        "which is looked up by its hash",
    )
    parser.add_argument("--folder", type=short_text(256), help="the worker's folder for it, e.g. diffusion_models")
    parser.add_argument(
        "--name", type=short_text(256), help="the file's name there (default: its name at the source)"
    )
    parser.add_argument(
        "--repository",
        metavar="ORG/NAME",
        help="look for a file of your own in this repository at Hugging Face, which has no search by hash",
    )
    parser.add_argument("--sha256", type=_sha256, metavar="HASH", help="refuse a file that has another SHA-256")


def run(options: argparse.Namespace) -> int:
    """Print where the model is once the worker has it; return 0, or 130 after Ctrl-C.

    Raises:
        OffloadError: no worker is configured, or it cannot be reached; or it refuses, or the download failed.
    """
    settings = checked_settings()
    source: str = options.source
    choices = {"folder": options.folder, "name": options.name, "sha256": options.sha256}
    file = None if _IS_SOURCE.fullmatch(source) else _own_file(source)
    if file is not None:
        choices["sha256"] = _hash_of(file)
        choices["name"] = choices["name"] or file.name
        source = f"hf:{options.repository}" if options.repository else f"sha256:{choices['sha256']}"
    tokens: dict[str, Any] = {"hf_token": settings.hf_token, "civitai_token": settings.civitai_token}
    with connect_from(settings) as session, ByteProgress() as line:

        def show(progress: FetchProgress) -> None:
            what = "looking the model up" if progress.name is None else f"fetching {progress.name}"
            line.show(what, progress.received, progress.size_bytes, progress.waits_for)

        try:
            found = session.fetch_model(source, on_progress=show, **(choices | tokens))
        except KeyboardInterrupt:
            print(
                "\nstopped; what has come is kept at the worker, and the same command continues it", file=sys.stderr
            )
            return _INTERRUPTED
        except WorkerFaultError as error:
            if file is not None and error.code == FaultCode.DOWNLOAD_FAILED.value:
                raise _nowhere(file, error, options) from error
            raise
    print(f"{found.folder}/{found.name}: {found.size_bytes / 1e9:.3f} GB from {found.source}")
    print(f"sha256 {found.sha256}")
    return 0


def _own_file(text: str) -> Path:
    try:
        return existing_file(text)
    except argparse.ArgumentTypeError as error:
        raise OffloadError(
            f"{error}. A source is https://HOST/FILE, hf:ORG/NAME/FILE, civitai:VERSION, sha256:HASH, or a file "
            "of this machine."
        ) from None


def _hash_of(file: Path) -> str:
    digest, done, size = hashlib.sha256(), 0, file.stat().st_size
    with file.open("rb") as opened, ByteProgress() as line:
        while block := opened.read(_BLOCK):
            digest.update(block)
            done += len(block)
            line.show(f"hashing {file.name}", done, size)
    return digest.hexdigest()


def _nowhere(file: Path, error: OffloadError, options: argparse.Namespace) -> OffloadError:
    folder = f" --folder {options.folder}" if options.folder else ""
    return OffloadError(f"{error}\nTo send the file itself: comfy-gpu-offload push {os.fspath(file)}{folder}")


def _sha256(text: str) -> str:
    if not re.fullmatch(r"[0-9A-Fa-f]{64}", text):
        raise argparse.ArgumentTypeError("a SHA-256 has 64 hexadecimal digits")
    return text.lower()
