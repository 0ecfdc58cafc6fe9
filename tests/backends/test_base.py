from __future__ import annotations

import torch
from tests.support.frames import CLIENT, forward_frame

from comfy_gpu_offload.backends.base import Backend, BackendInfo, Computed, Described, Listing, ModuleCall
from comfy_gpu_offload.io.tree import pack
from comfy_gpu_offload.protocol.envelope import open_frame, seal
from comfy_gpu_offload.protocol.messages import Fault, FaultCode, ModelDescription, ModelRef, SampleJob
from comfy_gpu_offload.server.handler import Handler


class Smallest(Backend):
    """A backend with the methods that every backend must have, and no others."""

    def info(self) -> BackendInfo:
        return BackendInfo("smallest", "CPU")

    def listing(self) -> Listing:
        return Listing(())

    def describe(self, ref: ModelRef) -> Described:
        return Described(ModelDescription(ref=ref, fingerprint="f" * 16, compute_dtype="float32"), None)

    def forward(self, call: ModuleCall) -> Computed:
        return Computed(call.args[0], 0.0, 0.0)


def test_a_backend_of_four_methods_serves_forward_calls() -> None:
    handler = Handler(Smallest())
    reply = open_frame(handler.handle(forward_frame(torch.ones(3)).joined()).joined())
    assert torch.equal(reply.unpack(), torch.ones(3))
    assert handler.close(10)


def test_a_whole_loop_is_refused_with_what_to_do_by_a_backend_without_a_sampler() -> None:
    job = SampleJob(
        request="request-1",
        client=CLIENT,
        model=ModelRef(name="echo"),
        fingerprint="f" * 16,
        reply_codec="raw",
        sampler="euler",
        scheduler="normal",
        seed=0,
        steps=1,
        cfg=1.0,
    )
    frame = seal(job, pack({"latent": torch.ones(1)}, "job"))
    message = open_frame(Handler(Smallest()).handle(frame.joined()).joined()).message
    assert isinstance(message, Fault)
    assert message.code is FaultCode.MODEL_FAILED
    assert "(smallest) runs no whole loops: run each step instead" in message.message
