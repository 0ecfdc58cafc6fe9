"""The history of one sampling run, which client and worker both keep, and what it predicts.

A history follows one input of a model's calls (the latent) and one output. The next input is nearly a linear
combination of the states and outputs before it, because that is how samplers compute it. An output resembles
earlier outputs and the input that it answers. So either is sent as coefficients and residuals. docs/prediction.md
has the exact rules.

Both ends must hold the same history bit for bit, or the receiver restores another tensor than the sender had. Three
things see to that. The order of a basis follows from the history alone (`_input_basis`, `_output_basis`). Only the
sender fits coefficients, which are sent. A call enters the history when both ends are done with it (`add`), and
never out of order.

What is worth trying is decided by the sender alone (`sender_choices`); the receiver need not know why.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from ..errors import CodecError
from ..io.buffers import Buffer, allocate
from ..protocol.messages import Coded
from . import arithmetic
from .arithmetic import Column, Fit, Floats
from .coded_tensor import CodedTensor, check_payload_size, check_restored, coded_tensor
from .latent import LatentBytes, Layout, Mask
from .sender_choices import ColumnChoice, Payoff

# Multistep samplers look back on up to four outputs, and on states before the last.
_OUTPUTS = 6
_STATES = 3
# An input of whose energy less than half is explained belongs to another run. Noise is not explained at all.
_UNRELATED = 0.5


@dataclass
class HistoryEntry:
    """One call on its way into a history.

    Attributes:
        number: the number of calls before it.
        received: the first part of its input, as it was sent.
        state: that part in float32, as far as it is known: see `arithmetic.state`.
        changed: the channels that differ from the call before; None if the input was not predicted.
        outputs: the parts of its output, once they are known.
    """

    number: int
    received: Column
    state: Column
    changed: Mask | None = None
    outputs: tuple[Column, ...] = ()


class Match(NamedTuple):
    """The prediction of an input by a history.

    Attributes:
        changed: the channels that differ from the last input.
        target: the elements of those channels.
        fit: how they are predicted; None if there are none.
    """

    changed: Mask
    target: Column
    fit: Fit | None

    @property
    def unexplained(self) -> float:
        """Return the share of the input's energy that the history does not explain."""
        return 0.0 if self.fit is None else self.fit.unexplained

    @property
    def is_related(self) -> bool:
        """Return whether the input belongs to the history's run."""
        return self.unexplained < _UNRELATED


class History:
    """The last states and outputs of one run. Not thread-safe: the calls of a run follow one another."""

    def __init__(self, layout: Layout) -> None:
        self.layout = layout
        self.calls = 0
        self._received: Column | None = None
        # Newest first.
        self._states: tuple[Column, ...] = ()
        self._outputs: tuple[tuple[Column, ...], ...] = ()
        self._input_payoff, self._output_payoff = Payoff(), Payoff()
        self._column_choice = ColumnChoice()

    @property
    def size_bytes(self) -> int:
        """Return the memory that its tensors take."""
        received = () if self._received is None else (self._received,)
        outputs = (part for parts in self._outputs for part in parts)
        return sum(each.words.nbytes for each in (*received, *self._states, *outputs))

    def add(self, entry: HistoryEntry) -> None:
        """Add a call that is done at both ends. A call that is not the next one is left out."""
        if entry.number != self.calls:
            return
        self._received = entry.received
        self._states = (entry.state, *self._states)[:_STATES]
        self._outputs = (entry.outputs, *self._outputs)[:_OUTPUTS]
        self.calls += 1

    def match(self, latent: LatentBytes) -> Match | None:
        """Fit an input of this layout to the history; None before the first call."""
        if self._received is None:
            return None
        part = next(latent.parts(self.layout.parts))
        changed = self.layout.changed(part, self._received)
        target = self.layout.picked(part, changed)
        if not target.size:
            return Match(changed, target, None)
        fit = self._column_choice.fit(target, self._input_basis(changed), self._newest(target.size))
        return Match(changed, target, fit)

    def _newest(self, size: int) -> list[int]:
        """Return where an input's basis has the last state and the parts of the last output of so many elements."""
        first = len(self._states)
        return [0, *range(first, first + sum(part.size == size for part in self._outputs[0]))]

    def take_input(self, latent: LatentBytes) -> HistoryEntry:
        """Return the entry of a call whose input, of this layout, is sent as it is."""
        part = next(latent.parts(self.layout.parts))
        return HistoryEntry(self.calls, _copied(part), arithmetic.state(part))

    def encode_input(self, latent: LatentBytes, match: Match) -> tuple[HistoryEntry, CodedTensor | None]:
        """Return the entry of a call, and what to send in place of its input; None where that is hardly smaller."""
        if not match.is_related or not self._input_payoff.is_due():
            return self.take_input(latent), None
        payload: Buffer = b""
        predicted = np.empty(0, np.float32)
        coefficients = []
        if match.fit is not None:
            predicted = arithmetic.predict(self._input_basis(match.changed), match.fit.coefficients)
            payload = arithmetic.encode(match.target, predicted)
            coefficients.append(match.fit.coefficients)
        if not self._input_payoff.pays(len(payload), latent, self.layout.parts):
            return self.take_input(latent), None
        received = _copied(next(latent.parts(self.layout.parts)))
        entry = self._predicted_entry(received, match.changed, match.target, predicted)
        return entry, coded_tensor(latent, coefficients, [payload], self.layout.written(match.changed))

    def decode_input(self, coded: Coded, payload: memoryview) -> tuple[HistoryEntry, memoryview]:
        """Return the entry of a call whose input was sent as `coded`, and the input's data in row-major order.

        Raises:
            CodecError: this history does not restore what the sender had.
        """
        layout, last = self.layout, self._received
        if last is None or (coded.dtype, coded.shape) != (layout.dtype, layout.shape):
            raise CodecError("an input that is not like the one before it")
        check_payload_size(coded, payload)
        changed = layout.read(coded.kept)
        predicted, target = np.empty(0, np.float32), Column(last.words[:0], last.dtype)
        if changed.any():
            predicted, target = _decode_part(coded, 0, payload, self._input_basis(changed))
        received = layout.placed(target, last, changed)
        data = _joined([received] * layout.parts)
        check_restored(coded, data)
        return self._predicted_entry(received, changed, target, predicted), data

    def take_output(self, entry: HistoryEntry, latent: LatentBytes) -> None:
        """Give the entry its output, which is sent as it is."""
        parts = self.layout.parts
        if latent.falls_into(parts):
            entry.outputs = tuple(_copied(part) for part in latent.parts(parts))

    def encode_output(self, entry: HistoryEntry, latent: LatentBytes) -> CodedTensor | None:
        """Give the entry its output, and return what to send in its place; None where that is hardly smaller."""
        self.take_output(entry, latent)
        if not entry.outputs or not self._output_payoff.is_due():
            return None
        coefficients, payloads = [], []
        for index, target in enumerate(entry.outputs):
            basis = self._output_basis(entry, entry.outputs[:index], target.size)
            if not basis:
                return None
            fit = arithmetic.fit(target, basis)
            payloads.append(arithmetic.encode(target, arithmetic.predict(basis, fit.coefficients)))
            coefficients.append(fit.coefficients)
        if not self._output_payoff.pays(sum(map(len, payloads)), latent, 1):
            return None
        return coded_tensor(latent, coefficients, payloads)

    def decode_output(self, entry: HistoryEntry, coded: Coded, payload: memoryview) -> memoryview:
        """Give the entry its output, which was sent as `coded`, and return its data in row-major order.

        Raises:
            CodecError: this history does not restore what the sender had.
        """
        parts = self.layout.parts
        if coded.kept or coded.shape[0] % parts or len(coded.sizes) != parts:
            raise CodecError(f"an output of shape {coded.shape!r:.80} that does not fall into {parts} parts")
        check_payload_size(coded, payload)
        size = math.prod(coded.shape) // parts
        outputs: list[Column] = []
        for index in range(parts):
            _, found = _decode_part(coded, index, payload, self._output_basis(entry, outputs, size))
            outputs.append(found)
        data = _joined(outputs)
        check_restored(coded, data)
        entry.outputs = tuple(outputs)
        return data

    def _predicted_entry(self, received: Column, changed: Mask, target: Column, predicted: Floats) -> HistoryEntry:
        """Return the entry of a call whose changed channels were predicted as `predicted` and are `target`."""
        state = self.layout.placed(arithmetic.state(target, predicted), self._states[0], changed)
        return HistoryEntry(self.calls, received, state, changed)

    # The order of both bases is part of the wire format: coefficients are assigned to columns by position.

    def _input_basis(self, changed: Mask) -> list[Column]:
        """Return what the changed channels of the next input are predicted from."""
        states = [self.layout.picked(state, changed) for state in self._states]
        return [*states, *self._past_outputs(self.layout.size_of(changed))]

    def _output_basis(self, entry: HistoryEntry, before: Sequence[Column], size: int) -> list[Column]:
        """Return what a part of `size` elements is predicted from; `before`: earlier parts of the same output."""
        basis = [*before, *self._of_size(entry, entry.state, size)]
        for state in self._states:
            basis += self._of_size(entry, state, size)
        return [*basis, *self._past_outputs(size)]

    def _of_size(self, entry: HistoryEntry, state: Column, size: int) -> list[Column]:
        """Return the state, or its changed channels alone, if it has as many elements as an output, `size`."""
        if entry.changed is not None and self.layout.size_of(entry.changed) == size:
            return [self.layout.picked(state, entry.changed)]
        return [state] if state.size == size else []

    def _past_outputs(self, size: int) -> list[Column]:
        return [part for parts in self._outputs for part in parts if part.size == size]


def _decode_part(coded: Coded, index: int, payload: memoryview, basis: Sequence[Column]) -> tuple[Floats, Column]:
    """Return the prediction of a part, and the part."""
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
