"""A queue worker in the test's process: asks a `RunPodGateway` for jobs as RunPod's SDK does, and answers them."""

from __future__ import annotations

import asyncio
import threading
from contextlib import suppress
from types import TracebackType
from typing import Any

import aiohttp
from worker.queue_jobs import QueueJobs

from .runpod_gateway import RunPodGateway

_NAME = "worker-in-this-process"


class QueueLoop:
    """`with QueueLoop(gateway, jobs):` takes jobs, any number at a time, until the block ends."""

    def __init__(self, gateway: RunPodGateway, jobs: QueueJobs) -> None:
        self._base = f"{gateway.base_url}/{gateway.endpoint}"
        self._jobs = jobs
        self._running: dict[str, asyncio.Task[None]] = {}
        self._loop = asyncio.new_event_loop()
        self._ended = asyncio.Event()
        self._thread = threading.Thread(target=lambda: self._loop.run_until_complete(self._run()), daemon=True)

    async def _run(self) -> None:
        async with aiohttp.ClientSession() as http:
            loops = [asyncio.ensure_future(self._take(http)), asyncio.ensure_future(self._stop(http))]
            await self._ended.wait()
            for task in (*loops, *self._running.values()):
                task.cancel()
                with suppress(asyncio.CancelledError):
                    await task

    async def _take(self, http: aiohttp.ClientSession) -> None:
        while True:
            held = {"job_in_progress": "1" if self._running else "0"}
            async with http.get(f"{self._base}/job-take/{_NAME}", params=held) as reply:
                job = None if reply.status == 204 else await reply.json()
            if job is not None:
                self._running[job["id"]] = asyncio.ensure_future(self._answer(http, job))

    async def _stop(self, http: aiohttp.ClientSession) -> None:
        while True:
            async with http.get(f"{self._base}/job-stop/{_NAME}") as reply:
                said = {} if reply.status == 204 else await reply.json()
            for job_id in said.get("jobsToStop", ()):
                if job_id in self._running:
                    self._running[job_id].cancel()

    async def _answer(self, http: aiohttp.ClientSession, job: dict[str, Any]) -> None:
        async def emit(output: Any) -> None:
            await self._post(http, "job-stream", job["id"], {"output": output})

        try:
            output = await self._jobs.answer(job.get("input"), emit)
            # The SDK makes a failed job of an output with an error.
            result = {"error": output["error"]} if "error" in output else {"output": output}
            await self._post(http, "job-done", job["id"], result)
        finally:
            self._running.pop(job["id"], None)

    async def _post(self, http: aiohttp.ClientSession, route: str, job_id: str, value: Any) -> None:
        async with http.post(f"{self._base}/{route}/{_NAME}/{job_id}", json=value) as reply:
            await reply.read()

    def __enter__(self) -> QueueLoop:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._loop.call_soon_threadsafe(self._ended.set)
        self._thread.join(30)
        self._loop.close()
