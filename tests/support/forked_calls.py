"""Calls from a process and from those forked from it, all at once, on one session: `python -m … URL`.

Prints JSON: for each process how many calls were made, how many of them gave another's result, and its name.
"""

from __future__ import annotations

import json
import os
import sys
import threading
from typing import Any

import torch

from comfy_gpu_offload import RemoteModel, Session, connect
from comfy_gpu_offload.digits.conditioning import conditioning

CHILDREN = 3
CALLS = 30
_THREADS = 2


def arguments(model: RemoteModel, process: int, number: int) -> dict[str, Any]:
    """Return the arguments of a call: no other has them, and each foretells the next a little."""
    context, pooled = conditioning([number % 10])
    start = torch.randn(1, 16, 8, 8, generator=torch.Generator().manual_seed(process)).to(model.dtype)
    return {
        "hidden_states": start * (1 + number / 1000),
        "timestep": torch.full((1,), 500.0 - number),
        "encoder_hidden_states": context.to(model.dtype),
        "pooled_projections": pooled.to(model.dtype),
        "return_dict": False,
    }


def call_all(
    session: Session, model: RemoteModel, process: int, expected: dict[int, torch.Tensor]
) -> dict[str, Any]:
    wrong: list[int] = []
    errors: list[str] = []

    def run(first: int) -> None:
        for number in range(first, CALLS, _THREADS):
            try:
                result = model(**arguments(model, process, number))[0]
            except Exception as error:
                errors.append(f"{type(error).__name__}: {error}"[:300])
                continue
            if not torch.equal(result, expected[number]):
                wrong.append(number)

    threads = [threading.Thread(target=run, args=(first,)) for first in range(_THREADS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return {"calls": CALLS, "wrong": wrong, "errors": errors, "client": session.client}


def main(url: str) -> None:
    torch.set_num_threads(1)  # a forked process has no threads of OpenMP's, and would wait for them
    session = connect(url, retry_s=60, compression="planes")
    model = session.model("digits")
    with connect(url, compression="none") as other:
        reference = other.model("digits")
        expected = {
            (process, number): reference(**arguments(reference, process, number))[0]
            for process in range(CHILDREN + 1)
            for number in range(CALLS)
        }
    # In the middle of things: a lock is held and a connection in use when the children are made.
    stop = threading.Event()
    busy = threading.Thread(target=_keep_busy, args=(model, stop))
    busy.start()
    pipes, children = [], []
    for process in range(1, CHILDREN + 1):
        reading, writing = os.pipe()
        child = os.fork()
        if not child:
            status = 1
            try:
                own = {number: expected[process, number] for number in range(CALLS)}
                os.write(writing, json.dumps(call_all(session, model, process, own)).encode())
                status = 0
            finally:
                os._exit(status)
        os.close(writing)
        pipes.append(reading)
        children.append(child)
    own = {number: expected[0, number] for number in range(CALLS)}
    told = [call_all(session, model, 0, own)]
    stop.set()
    busy.join()
    for reading, child in zip(pipes, children, strict=True):
        with os.fdopen(reading) as pipe:
            told.append(json.loads(pipe.read() or "null"))
        os.waitpid(child, 0)
    print(json.dumps(told))


def _keep_busy(model: RemoteModel, stop: threading.Event) -> None:
    number = 0
    while not stop.is_set():
        number += 1
        model(**arguments(model, CHILDREN + 1, number))


if __name__ == "__main__":
    main(sys.argv[1])
