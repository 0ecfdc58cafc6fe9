"""Derivations: how a tensor is made of kept ones by operations that are exact on every machine.

Both ends compute a derivation's name from what it says, and the shape and strides of its result by running it on
the meta device. Only operations that move elements or round floating-point numbers are known: these give the same
bits whoever runs them.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Final, NamedTuple

import msgpack
import torch

MOST_SOURCES: Final = 16
MOST_STEPS: Final = 32
MOST_NUMBERS: Final = 64

FLOATS: Final[Mapping[str, torch.dtype]] = {
    "float64": torch.float64,
    "float32": torch.float32,
    "float16": torch.float16,
    "bfloat16": torch.bfloat16,
}
"""The dtypes that are cast from and to: rounding to an integer differs among processors."""


class DerivationError(ValueError):
    """A derivation that is malformed, does not fit its sources, or gives more bytes than allowed."""


class Step(NamedTuple):
    """One operation.

    Attributes:
        operation: a name in `OPERATIONS`.
        inputs: its tensors, by position: the sources come first, then the results of the steps before.
        numbers: sizes, dimensions and positions.
        dtype: of a cast, by its torch name.
    """

    operation: str
    inputs: tuple[int, ...]
    numbers: tuple[int, ...] = ()
    dtype: str | None = None


def _cast(tensors: Sequence[torch.Tensor], _: Sequence[int], dtype: str | None) -> torch.Tensor:
    (tensor,) = tensors
    if dtype is None or dtype not in FLOATS or tensor.dtype not in FLOATS.values():
        raise DerivationError("a cast is from and to floating-point dtypes of 16 to 64 bits")
    return tensor.to(FLOATS[dtype])


def _of_one(function: Callable[..., torch.Tensor]) -> Callable[..., torch.Tensor]:
    def run(tensors: Sequence[torch.Tensor], numbers: Sequence[int], dtype: str | None) -> torch.Tensor:
        if dtype is not None:
            raise DerivationError("only a cast has a dtype")
        (tensor,) = tensors
        return function(tensor, *numbers)

    return run


def _cat(tensors: Sequence[torch.Tensor], numbers: Sequence[int], dtype: str | None) -> torch.Tensor:
    if dtype is not None or len({tensor.dtype for tensor in tensors}) > 1:
        raise DerivationError("tensors of one dtype are joined")
    (dim,) = numbers
    return torch.cat(list(tensors), dim)


def _plain(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.contiguous()


def _clone(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.clone()


OPERATIONS: Final[Mapping[str, Callable[..., torch.Tensor]]] = {
    "cast": _cast,
    "cat": _cat,
    "clone": _of_one(_clone),
    "contiguous": _of_one(_plain),
    "expand": _of_one(lambda tensor, *sizes: tensor.expand(*sizes)),
    "narrow": _of_one(lambda tensor, dim, start, length: tensor.narrow(dim, start, length)),
    "permute": _of_one(lambda tensor, *dims: tensor.permute(*dims)),
    "repeat": _of_one(lambda tensor, *times: tensor.repeat(*times)),
    "reshape": _of_one(lambda tensor, *sizes: tensor.reshape(sizes)),
    "select": _of_one(lambda tensor, dim, index: tensor.select(dim, index)),
    "squeeze": _of_one(lambda tensor, dim: tensor.squeeze(dim)),
    "unsqueeze": _of_one(lambda tensor, dim: tensor.unsqueeze(dim)),
}
"""The operations by name. Each takes its tensors, its numbers and its dtype."""


def apply(step: Step, inputs: Sequence[torch.Tensor]) -> torch.Tensor:
    """Return the result of a step.

    Raises:
        DerivationError: the step is malformed, or does not fit its inputs.
    """
    operation = OPERATIONS.get(step.operation)
    if operation is None or len(step.numbers) > MOST_NUMBERS:
        raise DerivationError(f"there is no operation {step.operation!r:.40} with {len(step.numbers)} numbers")
    try:
        return operation(inputs, step.numbers, step.dtype)
    except DerivationError:
        raise
    except Exception as error:  # torch raises many kinds, and its texts are long
        raise DerivationError(f"{step.operation} does not fit its tensors") from error


def outline(tensor: torch.Tensor) -> torch.Tensor:
    """Return a tensor on the meta device with the dtype, shape and strides of `tensor`."""
    return torch.empty_strided(tuple(tensor.shape), tensor.stride(), dtype=tensor.dtype, device="meta")


@dataclass(frozen=True)
class Derivation:
    """A tensor that is made of kept ones.

    Attributes:
        sources: the digests of those.
        steps: one after another; the last gives the tensor.
    """

    sources: tuple[bytes, ...]
    steps: tuple[Step, ...]

    @cached_property
    def name(self) -> bytes:
        """A digest of what it says, 32 bytes, by which its result is kept."""
        # A content's digest begins with a dtype's name, so none is one of these.
        said: Any = ["derived", list(self.sources), [list(step) for step in self.steps]]
        return hashlib.sha256(msgpack.packb(said)).digest()

    def evaluate(self, sources: Sequence[torch.Tensor], most_bytes: int) -> torch.Tensor:
        """Return the tensor, made of `sources`, which are those of the digests and are not written to.

        Args:
            most_bytes: of the result of any step; checked before memory is allocated.

        Raises:
            DerivationError: it is malformed, does not fit the sources, or a result is larger.
        """
        self._run([outline(source) for source in sources], most_bytes)
        return self._run(list(sources), most_bytes)

    def _run(self, tensors: list[torch.Tensor], most_bytes: int) -> torch.Tensor:
        if not 0 < len(self.sources) == len(tensors) <= MOST_SOURCES or not 0 < len(self.steps) <= MOST_STEPS:
            raise DerivationError("a derivation has some sources and steps, and few of each")
        for step in self.steps:
            if not step.inputs or not all(0 <= at < len(tensors) for at in step.inputs):
                raise DerivationError("a step names a tensor that is not there")
            made = apply(step, [tensors[at] for at in step.inputs])
            if made.nbytes > most_bytes:
                raise DerivationError(f"a step gives {made.nbytes} bytes, over the {most_bytes} allowed")
            tensors.append(made)
        return tensors[-1]
