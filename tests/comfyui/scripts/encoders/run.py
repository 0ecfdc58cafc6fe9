"""Compare text encoders at a worker with ComfyUI's own, under what nodes and packs do with them.

    PYTHON run.py COMFYUI_ROOT FOLDER

No server: all of it in this process. Prints JSON, for test_text_encoders.py to judge.
"""

from __future__ import annotations

import json

import encoder_sides
from behaviour import behaviour, memory_estimates
from encoder_refusals import refusals
from families import families

if __name__ == "__main__":
    facts = {
        "families": families(),
        "behaviour": behaviour(),
        "refusals": refusals(),
        "memory": memory_estimates(),
    }
    print(json.dumps(facts), flush=True)
    encoder_sides.SESSION.close()
