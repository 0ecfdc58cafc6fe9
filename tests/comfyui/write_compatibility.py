"""Write docs/compatibility.md: every architecture with every feature, on every ComfyUI that is found here.

    python -m tests.comfyui.write_compatibility

Takes half an hour or so, most of it for the models that cannot be made very small.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from .harness.checkouts import NONE_FOUND, Checkout, find_checkouts, install_requirements
from .harness.compatibility import Found, companions_of, page
from .harness.process import environment

_REPOSITORY = Path(__file__).resolve().parents[2]
_SCRIPTS = Path(__file__).parent / "scripts"
_PAGE = _REPOSITORY / "docs" / "compatibility.md"


def find(checkout: Checkout) -> Found:
    """Return a ComfyUI's findings, and show the script's messages meanwhile."""
    python = checkout.python()
    install_requirements(python, _REPOSITORY / "requirements.txt")
    found = Found.of(checkout.version or "unknown", _output(python, "matrix/run.py", checkout.root))
    encoders, vaes = (_facts(python, f"{name}/run.py", checkout.root) for name in ("encoders", "vaes"))
    return replace(found, companions=companions_of(encoders, vaes))


def _output(python: Path, script: str, *arguments: str | Path) -> str:
    env = environment({"PYTHONPATH": str(_REPOSITORY / "src")})
    command = [python, _SCRIPTS / script, *arguments]
    return subprocess.run(command, env=env, stdout=subprocess.PIPE, text=True, check=True).stdout


def _facts(python: Path, script: str, root: Path) -> dict[str, Any]:
    with TemporaryDirectory(prefix="matrix-") as folder:
        facts: dict[str, Any] = json.loads(_output(python, script, root, folder).splitlines()[-1])
    return facts


def main() -> None:
    checkouts = find_checkouts(os.environ, Path.home())
    if not checkouts:
        sys.exit(NONE_FOUND)
    _PAGE.write_text(page(map(find, checkouts)))


if __name__ == "__main__":
    main()
