"""The measurement of one way to store tensors: size, speed and error."""

from __future__ import annotations

import statistics
from collections.abc import Callable
from dataclasses import dataclass
from time import perf_counter
from typing import Any

import torch

from codec_cases import Case
from codec_peers import Peer
from comfy_gpu_offload.io import codecs
from comfy_gpu_offload.io.buffers import tensor_bytes, tensor_from
from comfy_gpu_offload.io.dtypes import NAMES

# A measurement goes on for at least so many seconds, and stops after so many.
_LEAST_S, _MOST_S = 0.03, 0.25
_FEWEST = 3


@dataclass(frozen=True)
class Row:
    """The figures of one way to store the tensors of one case; None where they are not measured or mean nothing.

    Attributes:
        ratio: the tensors' bytes / those stored.
        of_bound: the order-0 bound's bytes / those stored; None for lossy ways.
        relative_l2, max_error: errors over all elements; 0 if every bit came back.
    """

    source: str
    case: str
    way: str
    ours: bool
    tensor_bytes: int
    stored_bytes: int
    ratio: float
    of_bound: float | None
    encode_mb_s: float
    decode_mb_s: float | None
    relative_l2: float
    max_error: float


@dataclass(frozen=True)
class _Measured:
    """The measurement of one tensor."""

    stored_bytes: int
    encode_s: float
    decode_s: float | None
    back: torch.Tensor


def by_codec(case: Case, codec: codecs.Codec | codecs.Chooser, bound: float | None, repeats: int) -> Row:
    """Measure a codec of this package on a case.

    Raises:
        SystemExit: it is lossless, and lost something.
    """
    measured = [_codec(codec, tensor, repeats) for tensor in case.tensors]
    row = _row(case, codec.name, measured, bound, ours=True)
    if row.relative_l2 and codec.lossless:
        raise SystemExit(f"{codec.name} is lossless, and lost something of {case.name}")
    return row


def by_peer(case: Case, peer: Peer, bound: float | None, repeats: int) -> Row | None:
    """Measure another library on a case; None if it does not take such tensors.

    Raises:
        SystemExit: it did not give a tensor back.
    """
    measured = []
    for tensor in case.tensors:
        one = _peer(peer, tensor, repeats)
        if one is None:
            return None
        measured.append(one)
    return _row(case, peer.name, measured, bound, ours=False)


def _codec(codec: codecs.Codec | codecs.Chooser, tensor: torch.Tensor, repeats: int) -> _Measured:
    data, dtype, shape = tensor_bytes(tensor), NAMES[tensor.dtype], tuple(tensor.shape)
    used, payload = codecs.encode(codec, data, dtype, shape)
    # In memory of its own that may be written to, as a payload arrives.
    arrived = memoryview(bytearray(payload))
    return _Measured(
        len(payload),
        _median_s(lambda: codecs.encode(codec, data, dtype, shape), repeats),
        None if used == codecs.RAW else _median_s(lambda: used.decode(arrived, len(data), dtype, shape), repeats),
        tensor_from(used.decode(arrived, len(data), dtype, shape), tensor.dtype, shape),
    )


def _peer(peer: Peer, tensor: torch.Tensor, repeats: int) -> _Measured | None:
    payload = peer.encode(tensor)
    if payload is None:
        return None
    encode_s = _median_s(lambda: peer.encode(tensor), repeats)
    decode = peer.decode
    if decode is None:
        return _Measured(len(payload), encode_s, None, tensor)
    if bytes(decode(payload)) != tensor_bytes(tensor):
        raise SystemExit(f"{peer.name} did not give a {NAMES[tensor.dtype]} tensor back")
    return _Measured(len(payload), encode_s, _median_s(lambda: decode(payload), repeats), tensor)


def _median_s(run: Callable[[], Any], repeats: int) -> float:
    run()
    times: list[float] = []
    while len(times) < _FEWEST or (
        sum(times) < _MOST_S and (len(times) < repeats or (sum(times) < _LEAST_S and len(times) < 20 * repeats))
    ):
        started = perf_counter()
        run()
        times.append(perf_counter() - started)
    return statistics.median(times)


def _row(case: Case, way: str, measured: list[_Measured], bound: float | None, *, ours: bool) -> Row:
    size, stored = sum(tensor.nbytes for tensor in case.tensors), sum(one.stored_bytes for one in measured)
    decoded = [one.decode_s for one in measured if one.decode_s is not None]
    relative_l2, max_error = _errors(case.tensors, [one.back for one in measured])
    return Row(
        source=case.source,
        case=case.name,
        way=way,
        ours=ours,
        tensor_bytes=size,
        stored_bytes=stored,
        ratio=size / stored,
        of_bound=None if bound is None or relative_l2 else bound / stored,
        encode_mb_s=size / sum(one.encode_s for one in measured) / 1e6,
        decode_mb_s=size / sum(decoded) / 1e6 if len(decoded) == len(measured) else None,
        relative_l2=relative_l2,
        max_error=max_error,
    )


def _errors(tensors: list[torch.Tensor], back: list[torch.Tensor]) -> tuple[float, float]:
    """Return the relative L2 error and the largest absolute error over all elements."""
    lost = [
        (given.double(), (got.double() - given.double()))
        for given, got in zip(tensors, back, strict=True)
        if tensor_bytes(given) != tensor_bytes(got)
    ]
    if not lost:
        return 0.0, 0.0
    # Of all tensors, those included that lost nothing.
    norm = sum(float(tensor.double().square().sum()) for tensor in tensors)
    square = sum(float(error.square().sum()) for _, error in lost)
    return (square / norm) ** 0.5 if norm else float("inf"), max(float(error.abs().max()) for _, error in lost)
