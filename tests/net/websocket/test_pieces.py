from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from comfy_gpu_offload.net.websocket.pieces import PIECE_BYTES, Kind, PieceError, opened, payloads, sealed


@given(st.sampled_from(Kind), st.integers(0, 2**32 - 1), st.binary(max_size=300))
def test_a_piece_is_read_as_it_was_written(kind: Kind, exchange: int, payload: bytes) -> None:
    assert opened(sealed(kind, exchange, payload)) == (kind, exchange, memoryview(payload))


@pytest.mark.parametrize("message", [b"", b"\x01", b"\x01\0\0\0", b"\x00\0\0\0\0", b"\x07\0\0\0\0abc"])
def test_a_message_that_is_no_piece_is_refused(message: bytes) -> None:
    with pytest.raises(PieceError):
        opened(message)


@given(
    st.binary(max_size=3),
    st.lists(st.integers(0, 3 * PIECE_BYTES).map(lambda size: bytes(range(256)) * (size // 256 + 1)), max_size=4),
)
def test_payloads_are_the_bytes_of_all_buffers_in_order(first: bytes, buffers: list[bytes]) -> None:
    parts = list(payloads(buffers, first))
    assert b"".join(parts) == first + b"".join(buffers)
    assert all(0 < len(part) <= PIECE_BYTES for part in parts)
    assert all(len(part) == PIECE_BYTES for part in parts[:-1]) or any(len(each) >= PIECE_BYTES for each in buffers)


def test_a_large_buffer_is_not_copied() -> None:
    buffer = bytes(3 * PIECE_BYTES)
    assert all(isinstance(part, memoryview) and part.obj is buffer for part in payloads([buffer]))
