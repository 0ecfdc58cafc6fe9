"""Run sampling jobs whole, in the backend of a worker, and by ComfyUI's own sampler for comparison.

    PYTHON run.py COMFYUI_ROOT MODELS_FOLDER

No server: all of it in this process. Prints JSON, for test_sampling_jobs.py to judge.
"""

from __future__ import annotations

import json
import os

# First: it makes ComfyUI importable.
import sides
from bad_controls import bad_controls
from bad_patches import bad_patches
from bad_stock_patches import bad_stock_patches
from behaviour import containers, given, independence, interrupted, previews, refusals
from beside_values import autocast, memory_orders
from conditioning import conditioning
from equality import equality
from low_memory import low_memory
from merges import bad_merges, quantised, short_of_memory
from obstacles import obstacles, unknown_stock_names
from step_caches import step_caches
from two_clients import two_clients
from weight_dtypes import weight_dtypes

if __name__ == "__main__":
    facts = {
        "equality": equality(),
        "independence": independence(),
        "bad_patches": bad_patches(),
        "bad_merges": bad_merges(),
        "short_of_memory": short_of_memory(),
        "quantised": quantised(),
        "bad_controls": bad_controls(),
        "bad_stock_patches": bad_stock_patches(),
        "interrupted": {
            "at a call": interrupted(sides.MMDIT, "heun", "call"),
            "at a step": interrupted(sides.MMDIT, "euler", "step"),
        },
        "previews": previews(),
        "containers": containers(),
        "given": given(),
        "refusals": refusals(),
        "obstacles": obstacles(),
        "unknown_stock_names": unknown_stock_names(),
        "weight_dtypes": weight_dtypes(),
        "step_caches": step_caches(),
        "two_clients": two_clients(),
        "conditioning": conditioning(),
        "memory_orders": memory_orders(),
        "autocast": autocast(),
        # Last: it has every model leave memory.
        "low_memory": low_memory(),
    }
    print(json.dumps(facts), flush=True)
    # Threads of runs that were interrupted may be in torch's code still, which aborts when Python ends them.
    os._exit(0)
