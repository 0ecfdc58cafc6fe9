"""Residuals of predictions come back whatever they are; malformed payloads are typed errors."""

from __future__ import annotations

import struct

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from comfy_gpu_offload.errors import CodecError
from comfy_gpu_offload.prediction import residuals
from comfy_gpu_offload.prediction.residuals import EXACT, NEAR, WIDE, PredictedValues

WORDS = {16: np.dtype("<u2"), 13: np.dtype("<u2"), 0: np.dtype("<u4")}


def predicted(size: int, dropped_bits: int = 16, seed: int = 0) -> PredictedValues:
    return PredictedValues(np.random.default_rng(seed).standard_normal(size).astype(np.float32), dropped_bits)


def off(size: int, share: float, scale: float, words: np.dtype, seed: int = 1) -> np.ndarray:
    """Return residuals of which that share is off by about `scale`, either way."""
    generator = np.random.default_rng(seed)
    found = np.rint(generator.standard_normal(size) * scale).astype(np.int64)
    found[generator.random(size) >= share] = 0
    return found.astype(words)


@pytest.mark.parametrize("dropped_bits", WORDS)
@pytest.mark.parametrize("size", [0, 1, 2, 300, 5000])
@pytest.mark.parametrize("share", [0, 0.001, 0.1, 0.5, 0.51, 1])
@pytest.mark.parametrize("scale", [1, 30, 1e4])
def test_the_same_comes_back(dropped_bits: int, size: int, share: float, scale: float) -> None:
    prediction, words = predicted(size, dropped_bits), WORDS[dropped_bits]
    residual = off(size, share, scale, words)
    payload = residuals.encode(residual, prediction)
    assert len(payload) <= residual.nbytes
    assert np.array_equal(residuals.decode(memoryview(payload), words, prediction), residual)


@given(
    st.lists(st.tuples(st.integers(0, 2**16 - 1), st.floats(width=32, allow_nan=False, allow_infinity=False))),
    st.integers(0, 400),
)
def test_any_residual_of_any_prediction_comes_back(pairs: list[tuple[int, float]], right: int) -> None:
    residual = np.array([word for word, _ in pairs] + [0] * right, "<u2")
    prediction = PredictedValues(np.array([value for _, value in pairs] + [1.5] * right, np.float32), 16)
    payload = residuals.encode(residual, prediction)
    assert np.array_equal(residuals.decode(memoryview(payload), residual.dtype, prediction), residual)


def test_what_is_exact_takes_a_byte() -> None:
    assert residuals.encode(np.zeros(100_000, "<u2"), predicted(100_000)) == bytes([EXACT])


def test_what_is_rarely_off_takes_less_than_a_bit_an_element() -> None:
    size = 100_000
    payload = residuals.encode(off(size, 0.05, 1, WORDS[16]), predicted(size))
    assert payload[0] == NEAR
    # Whether, by order 0: 0.2 bits, for what rounds to 0 is not off. Which of five: 1.6 bits of those that are.
    assert 8 * len(payload) / size < 0.35


def test_elements_that_are_off_towards_the_border_take_no_sign() -> None:
    size = 100_000
    prediction = predicted(size)
    places = np.random.default_rng(3).random(size) < 0.2
    residual = np.where(places, np.where(prediction.downward(), 2**16 - 1, 1), 0).astype("<u2")
    signed = np.where(places, np.random.default_rng(4).choice([1, 2**16 - 1], size), 0).astype("<u2")
    assert len(residuals.encode(residual, prediction)) < 0.9 * len(residuals.encode(signed, prediction))


def test_what_is_off_by_more_where_numbers_are_small_gains_from_the_groups() -> None:
    size = 100_000
    prediction = predicted(size)
    step = 2.0 ** (np.floor(np.log2(np.abs(prediction.values))) - 7)
    miss = np.random.default_rng(5).standard_normal(size) * 0.05
    residual = np.rint(miss / step).astype(np.int64).astype("<u2")
    payload = residuals.encode(residual, prediction)
    assert payload[0] == WIDE
    shuffled = PredictedValues(np.random.default_rng(6).permutation(prediction.values), 16)
    assert len(payload) < 0.93 * len(residuals.encode(residual, shuffled))


def _counted(symbols: bytes, rest: bytes = b"", rest_count: int = 0, count: int | None = None) -> bytes:
    """Return a payload of the form NEAR whose planes are stored as they are."""
    planes = b""
    if rest_count:
        planes = struct.pack("<BIBI", 0, rest_count, 0, rest_count) + rest
    block = struct.pack("<BI", 0, len(symbols)) + symbols if symbols else b""
    head = struct.pack("<BI", NEAR, len(symbols) if count is None else count)
    return head + block + struct.pack("<I", rest_count) + planes


def test_the_form_is_the_documented_one() -> None:
    """Element 3 is off by one towards its border, element 131 by -2 away from it."""
    prediction = PredictedValues(np.full(200, 1 + 2**-9, np.float32), 16)  # the border lies above
    payload = _counted(bytes([2 * 3, 255, 1]), bytes([3, 0]), 1)
    found = residuals.decode(memoryview(payload), np.dtype("<u2"), prediction)
    assert {int(place): int(found[place]) for place in np.flatnonzero(found)} == {3: 1, 131: 2**16 - 2}


MALFORMED = {
    "empty": b"",
    "of an unknown way": b"\x03",
    "exact, and more": bytes([EXACT, 0]),
    "cut off in a count": bytes([NEAR, 1]),
    "cut off in a plane": _counted(bytes([2, 4]))[:8],
    "of more symbols than elements": _counted(b"", count=401),
    "of as many symbols as fit no memory": _counted(b"", count=2**32 - 1),
    "beyond the last element": _counted(bytes([255, 255, 255, 100])),
    "of fewer others than places": _counted(bytes([1])),
    "of more others than places": _counted(bytes([2]), bytes([3, 0]), 1),
    "with more behind it": _counted(bytes([2])) + b"\x00",
    "of too few groups": bytes([WIDE]) + struct.pack("<BIBI", 0, 1, 0, 1),
    "of a plane that is no zstd": bytes([WIDE]) + struct.pack("<BIBI", 1, 3, 1, 3) + b"abcdef",
}


@pytest.mark.parametrize("what", MALFORMED)
def test_a_payload_that_is_none_is_a_typed_error(what: str) -> None:
    with pytest.raises(CodecError):
        residuals.decode(memoryview(MALFORMED[what]), np.dtype("<u2"), predicted(400))


@given(st.sampled_from([NEAR, WIDE]), st.binary(max_size=200))
def test_noise_is_a_typed_error_or_a_residual(way: int, noise: bytes) -> None:
    prediction = predicted(64)
    try:
        found = residuals.decode(memoryview(bytes([way]) + noise), np.dtype("<u2"), prediction)
    except CodecError:
        return
    assert found.shape == (64,)
