"""The image's entry: COMFY_GPU_OFFLOAD_SERVE says for which kind of endpoint."""

from __future__ import annotations

import sys

from comfy_gpu_offload.errors import ConfigError

from .settings import load_worker_settings


def main() -> int:
    """Serves as the settings say; the exit status."""
    try:
        serve = load_worker_settings().serve
    except ConfigError as error:
        print(f"comfy-gpu-offload: {error}", file=sys.stderr, flush=True)
        return 2
    # Each is imported only where it is wanted.
    if serve == "http":
        from .server import main as serve_http  # noqa: PLC0415

        return serve_http()
    from .handler import main as take_jobs  # noqa: PLC0415

    return take_jobs()


if __name__ == "__main__":
    sys.exit(main())
