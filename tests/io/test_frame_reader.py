from __future__ import annotations

import random

import pytest
import torch
from tests.support.frames import forward_frame, malformed_frames

from comfy_gpu_offload.errors import FrameError
from comfy_gpu_offload.io.buffers import ALIGNMENT
from comfy_gpu_offload.io.frame import PRELUDE
from comfy_gpu_offload.io.frame_reader import FrameReader, whole_frame
from comfy_gpu_offload.io.limits import FrameLimits

FRAMES = [bytes(forward_frame(torch.arange(size)).joined()) for size in (0, 1, 1000)]


def parts_of(stream: bytes, seed: int) -> list[bytes]:
    """Cut at random places; some parts are empty."""
    chance = random.Random(seed)
    cuts = sorted(chance.choices(range(len(stream) + 1), k=12))
    return [stream[begin:end] for begin, end in zip([0, *cuts], [*cuts, len(stream)], strict=True)]


@pytest.mark.parametrize("seed", range(20))
def test_frames_come_out_as_they_went_in_however_they_are_cut(seed: int) -> None:
    reader, got = FrameReader(), []
    for part in parts_of(b"".join(FRAMES), seed):
        got += reader.feed(memoryview(part))
    assert [bytes(frame) for frame in got] == FRAMES
    assert reader.is_between_frames


def test_a_byte_at_a_time_is_enough() -> None:
    reader, got = FrameReader(), []
    for byte in FRAMES[1]:
        assert not got
        got += reader.feed(memoryview(bytes([byte])))
    assert bytes(got[0]) == FRAMES[1]


def test_a_frame_has_memory_of_its_own_that_may_be_written_and_is_aligned() -> None:
    source = bytearray(FRAMES[2])
    (frame,) = FrameReader().feed(memoryview(source))
    source[-1] ^= 1
    assert bytes(frame) == FRAMES[2]
    assert not frame.readonly
    assert torch.frombuffer(frame, dtype=torch.uint8).data_ptr() % ALIGNMENT == 0


def test_the_size_is_known_with_the_prelude() -> None:
    reader = FrameReader()
    reader.feed(memoryview(FRAMES[2])[: PRELUDE.size - 1])
    assert (reader.allocated_bytes, reader.is_between_frames) == (0, False)
    reader.feed(memoryview(FRAMES[2])[PRELUDE.size - 1 : PRELUDE.size])
    assert (reader.allocated_bytes, reader.is_between_frames) == (len(FRAMES[2]), False)
    reader.feed(memoryview(FRAMES[2])[PRELUDE.size :])
    assert (reader.allocated_bytes, reader.is_between_frames) == (0, True)


def test_what_is_larger_than_allowed_is_refused_by_its_first_bytes() -> None:
    reader = FrameReader(FrameLimits(frame_bytes=len(FRAMES[2]) - 1))
    with pytest.raises(FrameError) as caught:
        reader.feed(memoryview(FRAMES[2])[: PRELUDE.size])
    assert caught.value.malformation == "frame_too_large"
    assert reader.allocated_bytes == 0


@pytest.mark.parametrize("name", ["random", "text", "future version", "header claims more", "section claims more"])
def test_what_is_no_frame_is_refused(name: str) -> None:
    with pytest.raises(FrameError):
        FrameReader().feed(memoryview(malformed_frames()[name]))


@pytest.mark.parametrize("name", malformed_frames())
def test_a_body_that_is_no_whole_frame_is_none(name: str) -> None:
    body = malformed_frames()[name]
    found = whole_frame(body)
    # A checksum is for whoever opens the frame.
    assert (found is None) == (name not in {"re-ordered", "one byte altered"})


def test_a_body_that_is_a_frame_is_returned() -> None:
    found = whole_frame(FRAMES[1])
    assert found is not None
    assert bytes(found) == FRAMES[1]
