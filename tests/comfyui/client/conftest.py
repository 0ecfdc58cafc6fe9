"""A remote model and the same model loaded here, on the stand-in for ComfyUI, with a worker in this process."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from tests.support.comfy_stand_in.fixtures import StandIn

from comfy_gpu_offload.client.session import Session
from comfy_gpu_offload.server.handler import Handler
from comfy_gpu_offload.transport.loopback import LoopbackTransport

MODEL = "model.safetensors"


@dataclass
class Sides:
    """Patchers of one model: `remote`, whose weights are at the worker, and `local`, loaded by ComfyUI itself."""

    remote: Any
    local: Any
    session: Session

    @property
    def network(self) -> Any:
        """The stand-in for the remote model's network."""
        return self.remote.model.diffusion_model

    @property
    def calls(self) -> int:
        """The number of calls that the worker has had for this model."""
        return int(self.remote.remote.calls)

    def same(self, patch: Callable[[Any], None] = lambda _: None) -> bool:
        """Return whether both give the same latent in a run, with `patch` applied to a clone of each."""
        return torch.equal(*(sampled(_patched(side, patch)) for side in (self.local, self.remote)))


def _patched(patcher: Any, patch: Callable[[Any], None]) -> Any:
    made = patcher.clone()
    patch(made)
    return made


def sampled(patcher: Any, **options: Any) -> torch.Tensor:
    """Sample two steps as ComfyUI does: load, `pre_run`, calls, `cleanup`; `options` are `transformer_options`."""
    import comfy.model_management

    noise = torch.randn(1, 4, 3, 3, generator=torch.Generator().manual_seed(3))
    context = torch.full((1, 2, 8), 0.25)
    if hasattr(patcher, "partially_load"):
        patcher.partially_load(patcher.load_device)
    else:
        comfy.model_management.load_models_gpu([patcher])
    patcher.pre_run()
    try:
        x = noise
        transformer_options = {**patcher.model_options["transformer_options"], **options}
        for sigma in (1.0, 0.5):
            times = torch.full((1,), sigma)
            network = patcher.model.diffusion_model
            x = x - network(x, times, context=context, transformer_options=transformer_options) / 2
        return x
    finally:
        patcher.cleanup()


@pytest.fixture
def new_session(comfy_stand_in: StandIn) -> Iterator[Callable[[], Session]]:
    """Give a function that makes a session with a new worker on the stand-in."""
    from comfy_gpu_offload.comfyui.worker.backend import ComfyUIBackend

    with ExitStack() as ending:
        yield lambda: ending.enter_context(
            Session(LoopbackTransport(Handler(ComfyUIBackend(comfy_stand_in.root, cpu=True))))
        )


@pytest.fixture
def sides(comfy_stand_in: StandIn, new_session: Callable[[], Session]) -> Sides:
    """Give both sides of one model."""
    import comfy.sd

    from comfy_gpu_offload.comfyui.client.patcher import remote_patcher

    path = comfy_stand_in.write_model(MODEL)
    session = new_session()
    remote = remote_patcher(session.model(MODEL), session.welcome.comfyui)
    return Sides(remote, comfy.sd.load_diffusion_model(str(path)), session)
