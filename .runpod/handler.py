"""Where RunPod's Hub looks for a handler. The worker's own is worker/handler.py, and the image starts that one."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from worker.handler import main

if __name__ == "__main__":
    sys.exit(main())
