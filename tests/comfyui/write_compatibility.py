"""Write docs/compatibility.md: every architecture with every feature, on every ComfyUI that is found here.

    python -m tests.comfyui.write_compatibility

Takes half an hour or so, most of it for the models that cannot be made very small.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from .harness.checkouts import NONE_FOUND, Checkout, find_checkouts, install_requirements
from .harness.compatibility import Found, page
from .harness.process import environment

_REPOSITORY = Path(__file__).resolve().parents[2]
_SCRIPT = Path(__file__).parent / "scripts" / "matrix" / "run.py"
_PAGE = _REPOSITORY / "docs" / "compatibility.md"


def find(checkout: Checkout) -> Found:
    """Return a ComfyUI's findings, and show the script's messages meanwhile."""
    python = checkout.python()
    install_requirements(python, _REPOSITORY / "requirements.txt")
    env = environment({"PYTHONPATH": str(_REPOSITORY / "src")})
    done = subprocess.run([python, _SCRIPT, checkout.root], env=env, stdout=subprocess.PIPE, text=True, check=True)
    return Found.of(checkout.version or "unknown", done.stdout)


def main() -> None:
    checkouts = find_checkouts(os.environ, Path.home())
    if not checkouts:
        sys.exit(NONE_FOUND)
    _PAGE.write_text(page(map(find, checkouts)))


if __name__ == "__main__":
    main()
