"""A launcher that runs a RunPod handler's file as `python FILE` would, and ends when stdin does.

The SDK's loop asks for jobs for ever, also when nobody answers any more: no such process may outlive its test.
"""

from __future__ import annotations

import os
import runpy
import sys
import threading


def _end_with_stdin() -> None:
    while os.read(0, 1):
        pass
    os._exit(70)


if __name__ == "__main__":
    threading.Thread(target=_end_with_stdin, daemon=True).start()
    del sys.argv[0]
    runpy.run_path(sys.argv[0], run_name="__main__")
