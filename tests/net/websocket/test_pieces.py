from __future__ import annotations

from math import ceil

import pytest
from hypothesis import given
from hypothesis import strategies as st

from comfy_gpu_offload.net.websocket.piece_size import LEAST_BYTES, PieceSize
from comfy_gpu_offload.net.websocket.pieces import Kind, PieceError, opened, payloads, sealed


@given(st.sampled_from(Kind), st.integers(0, 2**32 - 1), st.lists(st.binary(max_size=300)))
def test_a_piece_is_read_as_it_was_written(kind: Kind, exchange: int, payload: list[bytes]) -> None:
    message = b"".join(sealed(kind, exchange, *payload))
    assert opened(message) == (kind, exchange, memoryview(b"".join(payload)))


@pytest.mark.parametrize("message", [b"", b"\x01", b"\x01\0\0\0", b"\x00\0\0\0\0", b"\x07\0\0\0\0abc"])
def test_a_message_that_is_no_piece_is_refused(message: bytes) -> None:
    with pytest.raises(PieceError):
        opened(message)


@given(st.binary(max_size=3), st.lists(st.integers(0, 3_000_000), max_size=4))
def test_payloads_are_the_bytes_of_all_buffers_in_equal_parts(first: bytes, sizes: list[int]) -> None:
    buffers, most = [bytes([number]) * size for number, size in enumerate(sizes)], PieceSize().bytes
    parts = [b"".join(payload) for payload in payloads(buffers, PieceSize(), first)]
    assert b"".join(parts) == first + b"".join(buffers)
    assert len(parts) == ceil((len(first) + sum(sizes)) / most)
    assert all(0 < len(part) <= most for part in parts)
    assert not parts or len(parts[0]) - len(parts[-1]) < len(parts)


def test_payloads_become_smaller_while_a_frame_is_sent() -> None:
    size, sizes = PieceSize(), []
    for payload in payloads([bytes(1_000_000)], size):
        sizes.append(sum(map(len, payload)))
        size.took(sizes[-1], 1.0)
    assert sum(sizes) == 1_000_000
    assert sizes[0] > 2 * sizes[-1]
    assert sizes[-1] <= LEAST_BYTES


def test_a_large_buffer_is_not_copied() -> None:
    buffer = bytes(3 * PieceSize().bytes)
    every = payloads([b"small", buffer, b"small"], PieceSize(), b"first")
    parts = [part for payload in every for part in payload]
    assert [part.obj is buffer for part in parts if isinstance(part, memoryview)] == [True] * 4
    assert [bytes(part) for part in parts if not isinstance(part, memoryview)] == [b"firstsmall", b"small"]


def test_many_small_buffers_are_few_for_a_system_call() -> None:
    buffers = [b"123"] * 100_000 + [bytes(5000), b"1"] * 1000
    assert all(len(payload) < 200 for payload in payloads(buffers, PieceSize()))
