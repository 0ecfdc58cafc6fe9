"""The cost of a large model's stand-in at the client, in units of building ComfyUI's own on the meta device.

Both in one run, so that what else the machine does is in both:

    python benchmarks/stand_in.py COMFYUI_PYTHON COMFYUI_ROOT
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import arguments
from results import Results, Table, conclude

_REPOSITORY = Path(__file__).resolve().parents[1]
_SCRIPT = _REPOSITORY / "tests" / "comfyui" / "scripts" / "measure_skeleton.py"
_MODELS = ("qwen-image-20b", "wan-14b")


def _run(python: str, root: str, *given: str) -> dict[str, Any]:
    """Return the last line that the script prints, as JSON."""
    env = {**os.environ, "PYTHONPATH": str(_REPOSITORY / "src")}
    command = [python, str(_SCRIPT), root, *given]
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=env)  # noqa: S603
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def main() -> int:
    """Print a line for each model."""
    parser = arguments.parser(__doc__)
    parser.add_argument("python", help="the interpreter of a ComfyUI")
    parser.add_argument("root", help="its folder")
    options = parser.parse_args()
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for name in arguments.progress(_MODELS, unit="model"):
            frame = str(Path(folder) / name)
            own = _run(options.python, options.root, "describe", name, frame)["seconds"]
            ours = _run(options.python, options.root, "build", frame)
            ratio = ours["seconds"] / own
            rows.append({"model": name, "own_s": own, "ratio": ratio, "grown_bytes": ours["grown_bytes"]})
    columns = {
        "model": "model",
        "ComfyUI's own s": "own_s .2f",
        "stand-in / own": "ratio .2f",
        "MB": "grown_bytes 1e-6 .1f",
    }
    table = Table.of("What a large model's stand-in costs", columns, rows)
    return conclude(Results("stand_in", rows, [table], [], {}), options)


if __name__ == "__main__":
    sys.exit(main())
