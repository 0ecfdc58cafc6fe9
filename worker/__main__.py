"""The entry point of the image: serves over HTTP or takes queue jobs, as COMFY_GPU_OFFLOAD_SERVE says."""

from __future__ import annotations

import sys

from comfy_gpu_offload.errors import ConfigError

from .settings import load_worker_settings


def main() -> int:
    """Serve as the settings say; return the exit status."""
    try:
        serve = load_worker_settings().serve
    except ConfigError as error:
        print(f"comfy-gpu-offload: {error}", file=sys.stderr, flush=True)
        return 2
    # Only the one that is used is imported: each needs libraries that the other does not.
    if serve == "http":
        from .server import main as serve_http  # noqa: PLC0415

        return serve_http()
    from .handler import main as take_jobs  # noqa: PLC0415

    return take_jobs()


if __name__ == "__main__":
    sys.exit(main())
