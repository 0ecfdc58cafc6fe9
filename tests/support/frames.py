"""Frames of forward calls, and malformed ones."""

from __future__ import annotations

from typing import Any

import torch

from comfy_gpu_offload.io.frame import PRELUDE, EncodedFrame, Part
from comfy_gpu_offload.io.tree import pack_call
from comfy_gpu_offload.protocol.envelope import seal_parts
from comfy_gpu_offload.protocol.messages import Forward, ModelRef

from .backend import FINGERPRINT

CLIENT = "client-under-test"


def forward_frame(
    *args: Any,
    model: str = "echo",
    request: str = "request-1",
    digests: dict[int, bytes] | None = None,
    held: bool = False,
    client: str = CLIENT,
    **kwargs: Any,
) -> EncodedFrame:
    """Return a forward call's frame; `digests` names tensors by position, `held` leaves their data out."""
    packed = pack_call(args, kwargs)
    digests = digests or {}
    parts = [
        Part(path, tensor, digests.get(i), held and i in digests)
        for i, (path, tensor) in enumerate(zip(packed.paths, packed.tensors, strict=True))
    ]
    message = Forward(
        request=request,
        client=client,
        model=ModelRef(name=model),
        fingerprint=FINGERPRINT,
        reply_codec="raw",
    )
    return seal_parts(message, packed.skeleton, parts)


def malformed_frames() -> dict[str, bytes]:
    """Return bytes that are no frame, by what is wrong with them."""
    good = bytes(forward_frame(torch.arange(4096, dtype=torch.float32)).joined())
    magic, version, flags, header, section, checksum = PRELUDE.unpack_from(good)

    def prelude(**changed: int) -> bytes:
        fields = {"version": version, "header": header, "section": section} | changed
        return PRELUDE.pack(magic, fields["version"], flags, fields["header"], fields["section"], checksum)

    body = good[PRELUDE.size :]
    return {
        "empty": b"",
        "random": bytes((i * 7919 + 13) % 256 for i in range(5000)),
        "text": b"GET / HTTP/1.1\r\n\r\n" * 10,
        "truncated prelude": good[:20],
        "truncated body": good[:-100],
        "trailing bytes": good + b"more",
        "re-ordered": good[: PRELUDE.size] + body[1000:2000] + body[:1000] + body[2000:],
        "one byte altered": good[:-1] + bytes([good[-1] ^ 1]),
        "future version": prelude(version=version + 1) + body,
        "header claims more": prelude(header=2**31) + body,
        "section claims more": prelude(section=2**60) + body,
    }
