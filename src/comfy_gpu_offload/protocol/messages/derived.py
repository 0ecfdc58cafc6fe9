"""Tensors of a call that the worker makes of those that it keeps: how a call says so."""

from __future__ import annotations

from typing import Annotated, Self

from pydantic import Field

from ...io.kept.derivation import MOST_NUMBERS, MOST_SOURCES, MOST_STEPS, Derivation, Step
from .base import ANY_SEQUENCE, Digest, Message, ShortText

MOST_DERIVED = 1024

_Number = Annotated[int, Field(gt=-(2**62), lt=2**62)]
_Place = Annotated[int, Field(ge=0, lt=MOST_SOURCES + MOST_STEPS)]


class DerivedStep(Message):
    """One exact operation (docs/protocol.md, "Kept results").

    Attributes:
        operation: its name.
        inputs: its tensors, by position: the sources come first, then the results of the steps before.
        numbers: sizes, dimensions and positions.
        dtype: of a cast, by its torch name.
    """

    operation: ShortText
    inputs: Annotated[tuple[_Place, ...], ANY_SEQUENCE, Field(min_length=1, max_length=MOST_NUMBERS)]
    numbers: Annotated[tuple[_Number, ...], ANY_SEQUENCE, Field(max_length=MOST_NUMBERS)] = ()
    dtype: ShortText | None = None


class DerivedTensor(Message):
    """A tensor that is made of kept ones. The frame names it by the digest of what this says.

    Attributes:
        sources: the digests of kept tensors.
        steps: one after another; the last gives the tensor.
    """

    sources: Annotated[tuple[Digest, ...], ANY_SEQUENCE, Field(min_length=1, max_length=MOST_SOURCES)]
    steps: Annotated[tuple[DerivedStep, ...], ANY_SEQUENCE, Field(min_length=1, max_length=MOST_STEPS)]

    @classmethod
    def of(cls, derivation: Derivation) -> Self:
        """Return the message part for a derivation."""
        return cls(
            sources=derivation.sources, steps=tuple(DerivedStep(**step._asdict()) for step in derivation.steps)
        )

    @property
    def derivation(self) -> Derivation:
        """The derivation that it states."""
        steps = (Step(step.operation, step.inputs, step.numbers, step.dtype) for step in self.steps)
        return Derivation(self.sources, tuple(steps))
