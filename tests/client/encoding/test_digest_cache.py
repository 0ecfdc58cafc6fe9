"""Tensors that are sent again and tensors that are named by digest, seen from a session."""

from __future__ import annotations

import torch

from comfy_gpu_offload import Session
from comfy_gpu_offload.client.encoding.digest_cache import DigestCache
from comfy_gpu_offload.io.tree import pack

CONTEXT = torch.randn(2, 77, 64)


def test_conditioning_crosses_once_and_latents_are_not_hashed_for_ever(session: Session) -> None:
    model = session.model("echo")
    for step in range(6):
        model(torch.randn(1, 4, 16, 16), torch.tensor([float(step)]), context=CONTEXT.clone())
    sizes = [timings.bytes_up for timings in model.timings]
    assert sizes[0] > CONTEXT.nbytes
    latent_bytes = 4 * 16 * 16 * 4
    assert all(latent_bytes < size < latent_bytes + 1000 for size in sizes[1:])


def test_a_second_run_sends_no_conditioning_again(session: Session) -> None:
    session.model("echo")(torch.randn(1, 4), context=CONTEXT)
    again = session.model("echo")
    again(torch.randn(1, 4), context=CONTEXT.clone())
    assert again.last_timings is not None
    assert again.last_timings.bytes_up < 1000


def test_an_input_that_comes_back_after_many_new_ones_is_noticed(session: Session) -> None:
    model = session.model("echo")
    kept = torch.randn(1, 4, 64, 64)
    for _ in range(5):
        model(torch.randn(1, 4, 64, 64))
    for _ in range(3):
        model(kept)
    assert model.last_timings is not None
    assert model.last_timings.bytes_up < 1000


def test_a_tensor_changed_in_place_is_a_new_one(session: Session) -> None:
    model = session.model("echo")
    x = torch.randn(64, 64)
    for _ in range(4):
        x[5, 5] += 1  # between the pieces that the cheap sample looks at, or not
        assert torch.equal(model(x), x)


def digested(cache: DigestCache, name: str, calls: int) -> list[bool]:
    """Return for each of so many calls with a new tensor under `name` whether it was given a digest."""
    found = []
    for _ in range(calls):
        packed = pack({name: torch.randn(64, 64)}, "kwargs")
        (part,) = cache.parts("model", packed, packed.tensors)
        found.append(part.digest is not None)
    return found


def test_an_argument_that_is_always_new_is_hashed_no_more() -> None:
    assert digested(DigestCache(2**30), "x", 6) == [True, True, False, False, False, False]


def test_a_control_nets_picture_is_hashed_each_time_for_the_next_run() -> None:
    assert digested(DigestCache(2**30), "hint", 6) == [True] * 6


def test_a_tensor_larger_than_the_workers_store_is_not_hashed() -> None:
    assert digested(DigestCache(64), "x", 1) == [False]
