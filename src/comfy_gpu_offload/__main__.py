"""The command line, as `python -m comfy_gpu_offload`."""

from __future__ import annotations

import sys

from .cli.main import main

if __name__ == "__main__":
    sys.exit(main())
