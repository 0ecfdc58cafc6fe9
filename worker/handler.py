"""The worker of a RunPod queue endpoint, started as `python -m worker.handler` or as this file."""

from __future__ import annotations

import importlib.util
import logging
import os
import signal
import sys
from pathlib import Path
from typing import Any

if not __package__:  # started as a file, as in RunPod's examples: the package is in the folder above
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from worker.queue_jobs import JobOutput, QueueJobs
from worker.settings import WorkerSettings, load_worker_settings
from worker.start import exit_status, ready_backend

from comfy_gpu_offload.config.findings import checked_settings
from comfy_gpu_offload.errors import ConfigError
from comfy_gpu_offload.server.handler import Handler
from comfy_gpu_offload.server.handler_options import handler_options
from comfy_gpu_offload.server.malloc_tuning import keep_freed_memory

logger = logging.getLogger(__name__)

_LOG_LEVEL = "RUNPOD_LOG_LEVEL"
# At DEBUG, the SDK's default, it writes every job's output into the log.
_LOG_LEVELS = ("INFO", "WARN", "ERROR", "NOTSET")
# Every job is over when the SDK's loop ends, but a cancelled call may still be computing up to its next block.
_DRAIN_S = 30.0


def main() -> int:
    """Take jobs until SIGTERM; return the exit status."""
    return exit_status(_run)


def _run() -> None:
    worker, settings = load_worker_settings(), checked_settings()
    if importlib.util.find_spec("runpod") is None:
        raise ConfigError(
            f"RunPod's SDK is not installed for {sys.executable}: install worker/requirements.txt there."
        )
    # In force until the SDK sets its own: a signal that a container's first process does not handle does nothing.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    keep_freed_memory()
    handler = Handler(ready_backend(worker, settings), handler_options(settings))
    logger.info("ready: %d jobs at a time", worker.concurrency)
    try:
        _take_jobs(QueueJobs(handler, worker.job_output_bytes), worker)
    finally:
        handler.close(_DRAIN_S)


def _take_jobs(jobs: QueueJobs, worker: WorkerSettings) -> None:
    """Run the SDK's loop until SIGTERM; it finishes the jobs that it has taken."""
    level = log_level(os.environ.get(_LOG_LEVEL))
    os.environ[_LOG_LEVEL] = level  # the SDK reads it when it is imported
    sys.argv += ["--rp_log_level", level]  # the last one of several decides

    # Imported as late as possible: the import takes seconds, and whatever fails above fails without them.
    from runpod.http_client import AsyncClientSession  # noqa: PLC0415
    from runpod.serverless.modules.rp_http import stream_result  # noqa: PLC0415

    import runpod  # noqa: PLC0415

    async def handle(job: dict[str, Any]) -> JobOutput:
        async def emit(output: JobOutput) -> None:
            # As the SDK does with the values of a generator. A generator is no choice here, since all its outputs
            # are streamed in pieces of at most 1 MB, and a forward call has one large output.
            async with AsyncClientSession() as session:
                await stream_result(session, {"output": output}, job)

        return await jobs.answer(job.get("input"), emit)

    runpod.serverless.start({"handler": handle, "concurrency_modifier": lambda _: worker.concurrency})


def log_level(asked: str | None) -> str:
    """Return the SDK's log level: the one asked for, unless it would have frames written into the log."""
    return asked.upper() if asked is not None and asked.upper() in _LOG_LEVELS else "INFO"


if __name__ == "__main__":
    sys.exit(main())
