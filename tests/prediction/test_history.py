"""The histories that both ends keep of a run: they agree, and predict what is sent."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from tests.support.histories import Ends, layout, seen

from comfy_gpu_offload.errors import CodecError
from comfy_gpu_offload.prediction.history import History
from comfy_gpu_offload.protocol.messages import Coded

SHAPE = (2, 8, 16, 16)
GENERATOR = torch.Generator()


def noise(*shape: int) -> torch.Tensor:
    return torch.randn(shape or SHAPE, generator=GENERATOR)


@pytest.fixture(autouse=True)
def seeded() -> None:
    GENERATOR.manual_seed(0)


def batch(x: torch.Tensor) -> torch.Tensor:
    """Return both halves of a guided batch, in bfloat16."""
    return torch.cat([x, x]).bfloat16()


def velocity(x: torch.Tensor) -> torch.Tensor:
    wanted, dropped = x.float().chunk(2)
    return torch.cat([torch.tanh(wanted), torch.sin(dropped)]).bfloat16()


def followed(calls: int) -> Ends:
    """Return both ends after so many calls of Euler's method."""
    x = noise()
    ends = Ends.of(batch(x))
    for _ in range(calls):
        output = velocity(batch(x))
        ends.answer(ends.ask(batch(x)), output)
        x = x - 0.05 * output.float().chunk(2)[0]
    return ends


def test_a_run_is_told_in_a_fraction_of_its_bytes_from_the_second_call_on() -> None:
    ends = followed(6)
    assert ends.inputs[0] is None
    assert all(each is not None and len(each.payload) < 2 * 2048 // 4 for each in ends.inputs[1:])
    assert all(each is not None for each in ends.outputs)


def columns_used(ends: Ends) -> list[int]:
    """Return how many columns of its basis each input was predicted from."""
    coded = [each.coded for each in ends.inputs if each is not None]
    return [int(np.count_nonzero(np.frombuffer(each.coefficients[0], "<f4"))) for each in coded]


def test_eulers_steps_are_told_by_the_last_state_and_output_alone() -> None:
    used = columns_used(followed(12))
    assert used[4:] == [3] * len(used[4:])  # the state, and the output's two parts


def test_a_sampler_that_looks_further_back_is_told_by_more_and_as_well() -> None:
    x, before = noise(), torch.zeros(SHAPE)[:1]
    x = x[:1]
    ends = Ends.of(batch(x))
    for call in range(16):
        output = batch(noise()[:1])  # nothing of it can be told by the one before
        ends.answer(ends.ask(batch(x)), output)
        step = output.float()[:1]
        # Euler's steps first, then of two: what was enough is so no longer.
        x = x - 0.05 * (step if call < 9 else 1.5 * step - 0.5 * before)
        before = step
    used = columns_used(ends)
    assert used[7] == 3
    assert min(used[10:]) > 3
    assert all(each is not None and len(each.payload) < 2048 // 4 for each in ends.inputs[1:])


def test_both_ends_know_the_same() -> None:
    ends = followed(9)
    for name in ("_states", "_outputs", "_received", "calls"):
        here, there = (_plain(getattr(end, name)) for end in (ends.client, ends.worker))
        assert here == there, name


def _plain(value: Any) -> Any:
    if isinstance(value, np.ndarray):
        return value.tobytes()
    return [_plain(each) for each in value] if isinstance(value, tuple) else value


@pytest.mark.parametrize(("calls", "states", "outputs"), [(1, 1, 1), (3, 3, 3), (6, 3, 6), (9, 3, 6)])
def test_it_remembers_three_states_and_six_outputs(calls: int, states: int, outputs: int) -> None:
    elements = noise().numel()
    # What was received, in bfloat16; states, in float32; outputs, of two parts each.
    assert followed(calls).client.size_bytes == elements * (2 + 4 * states + 2 * 2 * outputs)


def test_a_call_that_is_not_the_next_is_not_added() -> None:
    ends = followed(2)
    late = ends.client.take_input(seen(batch(noise())))
    ends.answer(ends.ask(batch(noise())), velocity(batch(noise())))
    ends.client.add(late)
    assert ends.client.calls == 3


def test_another_runs_input_is_not_related() -> None:
    ends = followed(3)
    match = ends.client.match(seen(batch(noise())))
    assert match is not None
    assert not match.is_related


def test_channels_that_did_not_change_are_named_and_not_sent() -> None:
    mask, x = noise(2, 5, 16, 16), noise()
    ends = Ends.of(torch.cat([batch(x), batch(mask)], 1))
    for _ in range(3):
        given = torch.cat([batch(x), batch(mask)], 1)
        ends.answer(ends.ask(given), velocity(batch(x)))
        x = x - 0.05 * velocity(batch(x)).float().chunk(2)[0]
    coded = ends.inputs[-1]
    assert coded is not None
    kept = np.unpackbits(np.frombuffer(coded.coded.kept, np.uint8), count=13)
    assert kept.tolist() == [0] * 8 + [1] * 5
    assert ends.outputs[-1] is not None  # its channels are the input's changed ones


def test_an_input_that_did_not_change_at_all_takes_no_payload() -> None:
    x = batch(noise())
    ends = Ends.of(x)
    for _ in range(3):
        ends.answer(ends.ask(x), velocity(x))
    assert ends.inputs[-1] is not None
    assert ends.inputs[-1].payload == b""


def test_what_does_not_pay_is_tried_at_every_eighth_call() -> None:
    """New noise on everything cannot be predicted, however close the rest is."""
    base = 0.1 * noise()
    ends = Ends.of(batch(base))
    tried = []
    fit = History.encode_input

    for _ in range(24):
        x = batch(base + noise())
        given = seen(x)
        match = ends.client.match(given)
        if match is None:
            call = ends.client.take_input(given)
        else:
            related = match._replace(fit=None if match.fit is None else match.fit._replace(unexplained=0.1))
            before = ends.client._input_payoff.misses
            call, encoded = fit(ends.client, given, related)
            assert encoded is None
            tried.append(ends.client._input_payoff.misses > before)
        ends.client.take_output(call, seen(velocity(x)))
        ends.client.add(call)
    assert [index for index, each in enumerate(tried) if each] == [0, 1, 2, 10, 18]


def test_an_output_of_another_size_has_nothing_to_be_foretold_from() -> None:
    ends = followed(2)
    calls = ends.ask(batch(noise()))
    ends.answer(calls, noise(4, 3).bfloat16())
    assert ends.outputs[-1] is None


def test_an_output_that_does_not_fall_into_the_parts_goes_as_it_is() -> None:
    ends = followed(2)
    ends.answer(ends.ask(batch(noise())), noise(3, 8, 16, 16).bfloat16())
    assert ends.outputs[-1] is None


def _coded(ends: Ends) -> tuple[Coded, bytes]:
    """Return an input that the history predicts, coded and not yet sent."""
    last = torch.from_numpy(ends.client._states[0].values(slice(None)).copy()).view(SHAPE)
    given = seen(batch(0.5 * last))
    match = ends.client.match(given)
    assert match is not None
    _, found = ends.client.encode_input(given, match)
    assert found is not None
    return found.coded, found.payload


WRONG_INPUTS: dict[str, Callable[[Coded, bytes], tuple[Coded, bytes]]] = {
    "another dtype": lambda coded, payload: (_changed(coded, dtype="F16"), payload),
    "another shape": lambda coded, payload: (_changed(coded, shape=(2, *SHAPE[1:])), payload),
    "a shape that fits no memory": lambda coded, payload: (_changed(coded, shape=(2**47, 2**47)), payload),
    "no coefficients": lambda coded, payload: (_changed(coded, coefficients=()), payload),
    "fewer coefficients": lambda coded, payload: (_changed(coded, coefficients=(b"\0\0\0\0",)), payload),
    "half a coefficient": lambda coded, payload: (
        _changed(coded, coefficients=(coded.coefficients[0][:-2],)),
        payload,
    ),
    "more coefficients": lambda coded, payload: (
        _changed(coded, coefficients=(coded.coefficients[0] * 2,)),
        payload,
    ),
    "no sizes": lambda coded, payload: (_changed(coded, sizes=()), payload),
    "a size beyond the payload": lambda coded, payload: (_changed(coded, sizes=(2**47,)), payload[:-1]),
    "a payload cut off": lambda coded, payload: (_changed(coded, sizes=(len(payload) - 1,)), payload),
    "no payload": lambda coded, _: (coded, b""),
    "a mask of more channels": lambda coded, payload: (_changed(coded, kept=b"\0\0"), payload),
    "a mask of a channel": lambda coded, payload: (_changed(coded, kept=b"\x80"), payload),
    "a mask of all channels": lambda coded, payload: (_changed(coded, kept=b"\xff"), payload),
    "another digest": lambda coded, payload: (_changed(coded, digest=bytes(16)), payload),
    "coefficients that are no numbers": lambda coded, payload: (
        _changed(coded, coefficients=(np.full(len(coded.coefficients[0]) // 4, np.nan, "<f4").tobytes(),)),
        payload,
    ),
}


def _changed(coded: Coded, **fields: Any) -> Coded:
    return coded.model_copy(update=fields)


@pytest.mark.parametrize("what", WRONG_INPUTS)
def test_an_input_that_is_not_made_as_its_sender_had_it_is_a_typed_error(what: str) -> None:
    ends = followed(4)
    coded, payload = WRONG_INPUTS[what](*_coded(ends))
    with pytest.raises(CodecError):
        ends.worker.decode_input(coded, memoryview(payload))
    assert ends.worker.calls == 4
    _, data = ends.worker.decode_input(*_as_sent(ends))
    assert len(data) == 2 * 2 * 4096


def _as_sent(ends: Ends) -> tuple[Coded, memoryview]:
    coded, payload = _coded(ends)
    return coded, memoryview(payload)


WRONG_OUTPUTS: dict[str, dict[str, Any]] = {
    "a mask": {"kept": b"\1"},
    "parts that are not equal": {"shape": (3, 8, 16, 16)},
    "fewer payloads than parts": {"sizes": (4,)},
    "fewer coefficients than parts": {"coefficients": (b"\0\0\0\0",)},
    "a shape that nothing was seen of": {"shape": (4, 8, 16, 17)},
    "a shape that fits no memory": {"shape": (2, 2**47, 2**47)},
    "another digest": {"digest": bytes(16)},
    "another dtype": {"dtype": "F32"},
    "sizes beyond the payload": {"sizes": (2**47, 2**47)},
}


@pytest.mark.parametrize("what", WRONG_OUTPUTS)
def test_an_output_that_is_not_made_as_its_sender_had_it_is_a_typed_error(what: str) -> None:
    ends = followed(4)
    x = batch(noise())
    here, there = ends.ask(x)
    output = velocity(x)
    encoded = ends.worker.encode_output(there, seen(output))
    assert encoded is not None
    payload = memoryview(encoded.payload)
    with pytest.raises(CodecError):
        ends.client.decode_output(here, _changed(encoded.coded, **WRONG_OUTPUTS[what]), payload)
    assert ends.client.decode_output(here, encoded.coded, payload) == seen(output).data


def test_nothing_is_foretold_for_an_empty_history() -> None:
    x = batch(noise())
    empty = History(layout(x))
    assert empty.match(seen(x)) is None
    coded, payload = _coded(followed(1))
    with pytest.raises(CodecError):
        empty.decode_input(coded, memoryview(payload))


def test_a_layout_is_frozen_and_says_what_belongs_together() -> None:
    x = batch(noise())
    assert layout(x) == layout(x.clone())
    assert layout(x) != replace(layout(x), parts=1)
    assert layout(x).parts == 2
