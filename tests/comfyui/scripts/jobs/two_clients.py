"""Two clients of one worker, each with a LoRA of its own on the same model, step by step in turn."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import comfy.sample
import torch
from sessions import Pair, sampled, sampled_whole
from sides import BACKEND, MMDIT, case, settings
from weight_dtypes import loras

from comfy_gpu_offload.client.session import Session
from comfy_gpu_offload.comfyui.client.patcher import remote_patcher
from comfy_gpu_offload.server.handler import Handler
from comfy_gpu_offload.transport.loopback import LoopbackTransport

_STEPS = 4
_WAIT_S = 60.0


class _Turns:
    """Turns of two threads: one runs until it hands over; one that is done has no more turns."""

    def __init__(self, first: str, second: str) -> None:
        self._left = [first, second]
        self._changed = threading.Condition()
        self.taken: list[str] = []

    def await_turn(self, who: str) -> None:
        with self._changed:
            assert self._changed.wait_for(lambda: self._left[0] == who, _WAIT_S)
            self.taken.append(who)

    def hand_over(self, *, done: bool = False) -> None:
        with self._changed:
            last = self._left.pop(0)
            if not done:
                self._left.append(last)
            self._changed.notify_all()


def _in_turn(who: str, turns: _Turns, model: Any, results: dict[str, torch.Tensor]) -> Callable[[], None]:
    this = case(MMDIT, steps=_STEPS)
    fields = settings(this.fields)

    def stepped(step: int, *_: Any) -> None:
        if step < _STEPS - 1:
            turns.hand_over()
            turns.await_turn(who)

    def run() -> None:
        turns.await_turn(who)
        try:
            with torch.inference_mode():
                latent = this.latent["samples"]
                results[who] = comfy.sample.sample(
                    model,
                    comfy.sample.prepare_noise(latent, fields["seed"]),
                    _STEPS,
                    fields["cfg"],
                    fields["sampler"],
                    fields["scheduler"],
                    this.positive,
                    this.negative,
                    latent,
                    callback=stepped,
                    disable_pbar=True,
                    seed=fields["seed"],
                )
        finally:
            turns.hand_over(done=True)

    return run


def two_clients() -> dict[str, Any]:
    """Return whether each client gets its own LoRA's latent, by turns and one run after another."""
    handler = Handler(BACKEND)
    stock = Pair.of(MMDIT).stock
    this = case(MMDIT, steps=_STEPS)
    patches = {"one": loras(("kind-lora", 1.0)), "other": loras(("kind-dora", 0.8), ("kind-lora-2", 0.5))}
    expected = {name: sampled(patch(stock), this) for name, patch in patches.items()}
    unpatched = sampled(stock, this)
    sessions = {name: Session(LoopbackTransport(handler)) for name in patches}
    models = {name: patches[name](remote_patcher(session.model(MMDIT.file))) for name, session in sessions.items()}
    turns = _Turns(*patches)
    results: dict[str, torch.Tensor] = {}
    threads = [threading.Thread(target=_in_turn(name, turns, model, results)) for name, model in models.items()]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    whole = [
        torch.equal(expected[name], sampled_whole(models[name], this)) for name in ("one", "other", "one", "other")
    ]
    third = remote_patcher(Session(LoopbackTransport(handler)).model(MMDIT.file))
    return {
        "clients": len({session.client for session in sessions.values()}),
        "turns": turns.taken,
        "by turns": {name: torch.equal(expected[name], results[name]) for name in patches},
        "whole loops": whole,
        "a third without": torch.equal(unpatched, sampled(third, this)),
        "different": len({tuple(each.flatten()[:4].tolist()) for each in (unpatched, *expected.values())}),
    }
