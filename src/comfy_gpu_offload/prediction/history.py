"""What both ends have seen of a sampling run, and what can be said in fewer bytes for that.

A history follows one input of a model's calls (the latent) and one output. The next input is nearly a linear
combination of what it holds, and so is an output of it and of what the call brought. docs/prediction.md says how.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
import xxhash

from ..errors import CodecError
from ..io import codecs
from ..io.buffers import Buffer, allocate, tensor_from
from ..io.dtypes import DTYPES
from ..io.strides import are_strides, with_strides
from ..protocol.messages import Coded
from . import arithmetic
from .arithmetic import Column, Fit, Floats
from .latent import Layout, Mask, Tensor

# Multistep samplers look back on up to four outputs, and on states before the last.
_OUTPUTS = 6
_STATES = 3
# After as many calls in a row for which it was hardly smaller, it is tried only now and then: it takes time.
_MISSES = 3
# How often fewer columns are tried, and how much less of an input they may tell.
_COMPARE_EVERY, _AS_WELL = 4, 0.02
# What is told less well than that may be another run's.
_LEAST_EXACT = 0.3
_RETRY_EVERY = 8
# A payload that is not below this share of what plain coding makes of the tensor is not worth the time.
_WORTHWHILE = 0.9
# Of what plain coding made of the one before: what is above could turn out either way.
_DECIDED = 0.75
# Of the raw size: what is below needs no comparison with plain coding: of a latent that leaves two thirds.
_CLEARLY_SMALLER = 0.2
# Of the energy: an input that a run explains by less than half is another run's. Noise is not explained at all.
_UNRELATED = 0.5


class Encoded(NamedTuple):
    """What travels in place of a tensor."""

    coded: Coded
    payload: bytes

    @property
    def tensor(self) -> torch.Tensor:
        """The payload as what a frame has in its place: bytes, in one dimension."""
        return tensor_from(memoryview(bytearray(self.payload)), torch.uint8, (len(self.payload),))


def tensor_of(coded: Coded, data: memoryview) -> torch.Tensor:
    """Return the tensor that `coded` announced, of `data` in row-major order.

    Raises:
        CodecError: no tensor of its shape travels with its strides.
    """
    dtype = DTYPES[coded.dtype]
    if coded.strides is not None and not are_strides(coded.shape, coded.strides, dtype.itemsize):
        raise CodecError("strides that are not of the shape announced")
    return with_strides(tensor_from(data, dtype, coded.shape), coded.strides)


@dataclass
class Call:
    """One call on its way into a history.

    Attributes:
        number: how many calls came before it.
        received: the first part of its input.
        state: what is known of that in float32.
        changed: which channels differ from the call before.
        outputs: the parts of its output, as they become known.
    """

    number: int
    received: Column
    state: Column
    changed: Mask | None = None
    outputs: tuple[Column, ...] = ()


class Match(NamedTuple):
    """How well a history foretells an input. `target`: its changed channels; `fit`: None where there are none."""

    changed: Mask
    target: Column
    fit: Fit | None

    @property
    def unexplained(self) -> float:
        """The share of the input's energy that the history does not explain."""
        return 0.0 if self.fit is None else self.fit.unexplained

    @property
    def is_related(self) -> bool:
        """Whether the input belongs to the history's run."""
        return self.unexplained < _UNRELATED


class History:
    """The last states and outputs of one run. Calls are added one at a time; what is read is a snapshot."""

    def __init__(self, layout: Layout) -> None:
        self.layout = layout
        self.calls = 0
        self._received: Column | None = None
        self._states: tuple[Column, ...] = ()
        self._outputs: tuple[tuple[Column, ...], ...] = ()
        self._input_worth, self._output_worth = _Worth(), _Worth()
        self._few = _Few()

    @property
    def size_bytes(self) -> int:
        """Of the memory that this takes."""
        received = () if self._received is None else (self._received,)
        outputs = (part for parts in self._outputs for part in parts)
        return sum(each.words.nbytes for each in (*received, *self._states, *outputs))

    def add(self, call: Call) -> None:
        """The call is done at both ends. One that is not the next is not added."""
        if call.number != self.calls:
            return
        self._received = call.received
        self._states = (call.state, *self._states)[:_STATES]
        self._outputs = (call.outputs, *self._outputs)[:_OUTPUTS]
        self.calls += 1

    def match(self, tensor: Tensor) -> Match | None:
        """How well an input of this layout is foretold; None before the first call."""
        if self._received is None:
            return None
        part = next(tensor.parts(self.layout.parts))
        changed = self.layout.changed(part, self._received)
        target = self.layout.picked(part, changed)
        if not target.size:
            return Match(changed, target, None)
        return Match(changed, target, self._few.fit(target, self._input_basis(changed), self._newest(target.size)))

    def _newest(self, size: int) -> list[int]:
        """Where in an input's basis the last state is and the last output of parts of so many elements."""
        first = len(self._states)
        return [0, *range(first, first + sum(part.size == size for part in self._outputs[0]))]

    def take_input(self, tensor: Tensor) -> Call:
        """A call whose input, of this layout, crossed as it is."""
        part = next(tensor.parts(self.layout.parts))
        return Call(self.calls, _copied(part), arithmetic.state(part))

    def encode_input(self, tensor: Tensor, match: Match) -> tuple[Call, Encoded | None]:
        """The call and what may travel in place of its input; None where that is hardly smaller."""
        if not match.is_related or not self._input_worth.is_due():
            return self.take_input(tensor), None
        payload: Buffer = b""
        predicted = np.empty(0, np.float32)
        coefficients = []
        if match.fit is not None:
            predicted = arithmetic.predict(self._input_basis(match.changed), match.fit.coefficients)
            payload = arithmetic.encode(match.target, predicted)
            coefficients.append(match.fit.coefficients)
        if not self._input_worth.pays(len(payload), tensor, self.layout.parts):
            return self.take_input(tensor), None
        coded = _coded(tensor, coefficients, [payload], self.layout.written(match.changed))
        received = _copied(next(tensor.parts(self.layout.parts)))
        call = self._continued(received, match.changed, match.target, predicted)
        return call, Encoded(coded, bytes(payload))

    def decode_input(self, coded: Coded, payload: memoryview) -> tuple[Call, memoryview]:
        """The call and its input's data.

        Raises:
            CodecError: this history does not make of it what the sender had.
        """
        layout, last = self.layout, self._received
        if last is None or (coded.dtype, coded.shape) != (layout.dtype, layout.shape):
            raise CodecError("an input that is not like the one before it")
        _check_sizes(coded, payload)
        changed = layout.read(coded.kept)
        predicted, target = np.empty(0, np.float32), Column(last.words[:0], last.dtype)
        if changed.any():
            predicted, target = _decode_part(coded, 0, payload, self._input_basis(changed))
        received = layout.placed(target, last, changed)
        data = _joined([received] * layout.parts)
        _check(coded, data)
        return self._continued(received, changed, target, predicted), data

    def take_output(self, call: Call, tensor: Tensor) -> None:
        """The call's output crossed as it is."""
        parts = self.layout.parts
        if tensor.falls_into(parts):
            call.outputs = tuple(_copied(part) for part in tensor.parts(parts))

    def encode_output(self, call: Call, tensor: Tensor) -> Encoded | None:
        """What may travel in place of the call's output, None where that is hardly smaller; the call gets it."""
        self.take_output(call, tensor)
        if not call.outputs or not self._output_worth.is_due():
            return None
        coefficients, payloads = [], []
        for index, target in enumerate(call.outputs):
            basis = self._output_basis(call, call.outputs[:index], target.size)
            if not basis:
                return None
            fit = arithmetic.fit(target, basis)
            payloads.append(arithmetic.encode(target, arithmetic.predict(basis, fit.coefficients)))
            coefficients.append(fit.coefficients)
        if not self._output_worth.pays(sum(map(len, payloads)), tensor, 1):
            return None
        return Encoded(_coded(tensor, coefficients, payloads, b""), b"".join(payloads))

    def decode_output(self, call: Call, coded: Coded, payload: memoryview) -> memoryview:
        """The output's data; the call gets the output.

        Raises:
            CodecError: this history does not make of it what the sender had.
        """
        parts = self.layout.parts
        if coded.kept or coded.shape[0] % parts or len(coded.sizes) != parts:
            raise CodecError(f"an output of shape {coded.shape!r:.80} that does not fall into {parts} parts")
        _check_sizes(coded, payload)
        size = math.prod(coded.shape) // parts
        outputs: list[Column] = []
        for index in range(parts):
            _, found = _decode_part(coded, index, payload, self._output_basis(call, outputs, size))
            outputs.append(found)
        data = _joined(outputs)
        _check(coded, data)
        call.outputs = tuple(outputs)
        return data

    def _continued(self, received: Column, changed: Mask, target: Column, predicted: Floats) -> Call:
        """The call whose input's changed channels were predicted so."""
        state = self.layout.placed(arithmetic.state(target, predicted), self._states[0], changed)
        return Call(self.calls, received, state, changed)

    def _input_basis(self, changed: Mask) -> list[Column]:
        """What those channels of the next input are predicted from, in the order that both ends have."""
        states = [self.layout.picked(state, changed) for state in self._states]
        return [*states, *self._past_outputs(self.layout.size_of(changed))]

    def _output_basis(self, call: Call, before: Sequence[Column], size: int) -> list[Column]:
        """What a part of so many elements is predicted from; `before`: those of the same output, in order."""
        basis = [*before, *self._seen(call, call.state, size)]
        for state in self._states:
            basis += self._seen(call, state, size)
        return [*basis, *self._past_outputs(size)]

    def _seen(self, call: Call, state: Column, size: int) -> list[Column]:
        """The channels of a state that an output of so many elements corresponds to; none or one."""
        if call.changed is not None and self.layout.size_of(call.changed) == size:
            return [self.layout.picked(state, call.changed)]
        return [state] if state.size == size else []

    def _past_outputs(self, size: int) -> list[Column]:
        return [part for parts in self._outputs for part in parts if part.size == size]


@dataclass
class _Few:
    """Whether an input's basis is more than it needs: Euler's steps go from the last state by the last output.

    At every fourth call it is told by all columns and by those few, to compare; else by the few where those did as
    well and still do, which takes less time.
    """

    calls: int = 0
    exact: float | None = None

    def fit(self, target: Column, basis: Sequence[Column], few: Sequence[int]) -> Fit:
        self.calls += 1
        is_due = self.calls % _COMPARE_EVERY == 1
        if self.exact is not None and not is_due:
            found = arithmetic.fit_few(target, basis, few)
            if found.exact > self.exact - _AS_WELL:
                return found
        whole = arithmetic.fit(target, basis)
        if self.exact is None and not is_due:
            return whole
        part = arithmetic.fit_few(target, basis, few)
        does_as_well = part.exact > max(whole.exact - _AS_WELL, _LEAST_EXACT)
        self.exact = part.exact if does_as_well else None
        return part if does_as_well else whole


@dataclass
class _Worth:
    """Whether trying is worth the time, by how it went."""

    misses: int = 0
    skipped: int = 0
    plain: int = 0
    plain_calls: int = 0

    def is_due(self) -> bool:
        if self.misses < _MISSES:
            return True
        self.skipped += 1
        return self.skipped % _RETRY_EVERY == 0

    def pays(self, size_bytes: int, tensor: Tensor, copies: int) -> bool:
        """Whether so many bytes in place of the tensor, of which `copies` are equal, were worth the time."""
        paid = size_bytes < _CLEARLY_SMALLER * len(tensor.data) / copies
        paid = paid or size_bytes < _WORTHWHILE * self._plain_bytes(size_bytes, tensor)
        self.misses = 0 if paid else self.misses + 1
        return paid

    def _plain_bytes(self, size_bytes: int, tensor: Tensor) -> int:
        """What plain coding makes of it: much the same from call to call, and found anew where it decides."""
        self.plain_calls += 1
        if size_bytes > _DECIDED * self.plain or self.plain_calls % _RETRY_EVERY == 0:
            self.plain = len(codecs.encode(codecs.AUTO, tensor.data, tensor.dtype, tensor.shape).payload)
        return self.plain


def _decode_part(coded: Coded, index: int, payload: memoryview, basis: Sequence[Column]) -> tuple[Floats, Column]:
    """What was predicted of a part, and the part."""
    if index >= min(len(coded.coefficients), len(coded.sizes)) or len(coded.coefficients[index]) % 4:
        raise CodecError("fewer coefficients or payloads than parts")
    start = sum(coded.sizes[:index])
    predicted = arithmetic.predict(basis, np.frombuffer(coded.coefficients[index], "<f4"))
    return predicted, arithmetic.decode(payload[start : start + coded.sizes[index]], coded.dtype, predicted)


def _copied(part: Column) -> Column:
    return Column(part.words.copy(), part.dtype)


def _joined(columns: Sequence[Column]) -> memoryview:
    data = allocate(sum(column.words.nbytes for column in columns))
    position = 0
    for column in columns:
        end = position + column.words.nbytes
        np.copyto(np.frombuffer(data[position:end], column.words.dtype), column.words)
        position = end
    return data


def _coded(tensor: Tensor, coefficients: Sequence[Floats], payloads: Sequence[Buffer], kept: bytes) -> Coded:
    return Coded(
        dtype=tensor.dtype,  # type: ignore[arg-type]  # a name that prediction knows; checked here as everywhere
        shape=tensor.shape,
        kept=kept,
        coefficients=tuple(found.astype("<f4").tobytes() for found in coefficients),
        sizes=tuple(len(payload) for payload in payloads),
        digest=xxhash.xxh3_128_digest(tensor.data),
        strides=tensor.strides,
    )


def _check_sizes(coded: Coded, payload: memoryview) -> None:
    if sum(coded.sizes) != len(payload):
        raise CodecError(f"payloads of {sum(coded.sizes)} bytes in {len(payload)}")


def _check(coded: Coded, data: memoryview) -> None:
    if len(data) != math.prod(coded.shape) * np.dtype(arithmetic.WORDS[coded.dtype]).itemsize:
        raise CodecError("the prediction is not of the shape announced")
    if xxhash.xxh3_128_digest(data) != coded.digest:
        raise CodecError("the prediction gave another tensor than the sender's")
