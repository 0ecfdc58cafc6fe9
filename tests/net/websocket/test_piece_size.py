"""The size of pieces follows the time that they take."""

from __future__ import annotations

from comfy_gpu_offload.net.websocket.piece_size import LEAST_BYTES, MOST_BYTES, PieceSize
from comfy_gpu_offload.net.websocket.pieces import MAX_MESSAGE_BYTES


def test_quick_pieces_grow_to_what_every_receiver_takes() -> None:
    size = PieceSize()
    for _ in range(20):
        size.took(size.bytes, 0.001)
    assert size.bytes == MOST_BYTES < MAX_MESSAGE_BYTES


def test_slow_pieces_shrink_to_a_least() -> None:
    size = PieceSize()
    for _ in range(20):
        size.took(size.bytes, 0.2)
    assert size.bytes == LEAST_BYTES


def test_short_messages_say_nothing_of_the_line() -> None:
    size = PieceSize()
    before = size.bytes
    size.took(100, 0.001)
    size.took(size.bytes, 0.03)
    assert size.bytes == before
