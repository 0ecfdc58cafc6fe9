"""The worker of a RunPod queue endpoint: `python -m worker.handler`, or this file itself."""

from __future__ import annotations

import importlib.util
import logging
import os
import signal
import sys
from pathlib import Path
from typing import Any

if not __package__:  # run as a file, as RunPod's own examples are: the folder above holds the package
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from worker.queue_jobs import JobOutput, QueueJobs
from worker.settings import WorkerSettings, load_worker_settings
from worker.start import exit_status, handler_options, ready_backend

from comfy_gpu_offload.config.findings import checked_settings
from comfy_gpu_offload.errors import ConfigError
from comfy_gpu_offload.server.handler import Handler
from comfy_gpu_offload.server.malloc_tuning import keep_freed_memory

logger = logging.getLogger(__name__)

_LOG_LEVEL = "RUNPOD_LOG_LEVEL"
# Below INFO the SDK writes every job's output into the log, and DEBUG is its default.
_LOG_LEVELS = ("INFO", "WARN", "ERROR", "NOTSET")
# Every job is over when the SDK's loop ends; a call that was cancelled may still be on its way to its next block.
_DRAIN_S = 30.0


def main() -> int:
    """Takes jobs until SIGTERM; the exit status."""
    return exit_status(_run)


def _run() -> None:
    worker, settings = load_worker_settings(), checked_settings()
    if importlib.util.find_spec("runpod") is None:
        raise ConfigError(
            f"RunPod's SDK is not installed for {sys.executable}: install worker/requirements.txt there."
        )
    # Until the SDK's own: a container's first process is not ended by a signal that it does not handle.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    keep_freed_memory()
    handler = Handler(ready_backend(worker, settings), handler_options(settings))
    logger.info("ready: %d jobs at a time", worker.concurrency)
    try:
        _take_jobs(QueueJobs(handler, worker.job_output_bytes), worker)
    finally:
        handler.close(_DRAIN_S)


def _take_jobs(jobs: QueueJobs, worker: WorkerSettings) -> None:
    """Runs the SDK's loop until SIGTERM; it finishes the jobs it has."""
    level = log_level(os.environ.get(_LOG_LEVEL))
    os.environ[_LOG_LEVEL] = level  # read when it is imported
    sys.argv += ["--rp_log_level", level]  # the last one counts

    # Takes seconds, and everything above can fail without it.
    from runpod.http_client import AsyncClientSession  # noqa: PLC0415
    from runpod.serverless.modules.rp_http import stream_result  # noqa: PLC0415

    import runpod  # noqa: PLC0415

    async def handle(job: dict[str, Any]) -> JobOutput:
        async def emit(output: JobOutput) -> None:
            # As the SDK does for what a generator yields. A generator's other outputs would have to be streams
            # too, in pieces of 1 MB, and a forward call has but one.
            async with AsyncClientSession() as session:
                await stream_result(session, {"output": output}, job)

        return await jobs.answer(job.get("input"), emit)

    runpod.serverless.start({"handler": handle, "concurrency_modifier": lambda _: worker.concurrency})


def log_level(asked: str | None) -> str:
    """The SDK's log level: the one asked for, unless frames would be in the log then."""
    return asked.upper() if asked is not None and asked.upper() in _LOG_LEVELS else "INFO"


if __name__ == "__main__":
    sys.exit(main())
