"""Sample with hooks on weights, here and by a worker's backend.

    PYTHON run_hooks.py COMFYUI_ROOT MODELS_FOLDER

No server: all of it in this process. Prints JSON, for test_weight_hooks.py to judge.
"""

from __future__ import annotations

import json
import os

# First: it makes ComfyUI importable.
import sides  # noqa: F401
from hooked_runs import hooked_runs
from weight_hooks import weight_hooks

if __name__ == "__main__":
    print(json.dumps({"ways": weight_hooks(), **hooked_runs()}), flush=True)
    # As in run.py.
    os._exit(0)
