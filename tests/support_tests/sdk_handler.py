"""A handler for RunPod's SDK that does as the job's input says. Run by the SDK's interpreter, as a worker is."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import runpod

Job = dict[str, Any]


async def answer(job: Job) -> Any:
    """One result. `do` says which: wait, fail, raise, large; anything else is returned as it is."""
    given = job["input"]
    match given.get("do"):
        case "wait":
            await _wait(given["note"])
        case "fail":
            return {"error": "it did not work"}
        case "raise":
            raise ValueError("it broke")
        case "large":
            return "x" * given["size"]
        case "progress":
            runpod.serverless.progress_update(job, "half")
            await asyncio.sleep(given["for_s"])
    return {"echo": given}


async def count(job: Job) -> AsyncIterator[Any]:
    """`count` chunks, a little apart."""
    for number in range(job["input"]["count"]):
        yield {"number": number}
        await asyncio.sleep(0.05)


async def _wait(note: str) -> None:
    """Run until it is cancelled, and note that in a file."""
    Path(note).write_text("begun")
    try:
        await asyncio.sleep(600)
    except asyncio.CancelledError:
        Path(note).write_text("cancelled")
        raise


if __name__ == "__main__":
    runpod.serverless.start(
        {
            "handler": count if os.environ.get("STREAM") else answer,
            "return_aggregate_stream": bool(os.environ.get("AGGREGATE")),
            "concurrency_modifier": lambda _: int(os.environ.get("CONCURRENCY", "1")),
        }
    )
