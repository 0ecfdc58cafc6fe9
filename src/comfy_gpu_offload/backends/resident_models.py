"""Loaded models, of which the least recently used leave when memory is short."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Collection, Hashable, Iterator
from time import perf_counter
from typing import Generic, Protocol, TypeVar

from .base import is_out_of_memory, no_room_for


class Resident(Protocol):
    """A loaded model."""

    def is_current(self) -> bool:
        """Return whether the files are still those that the model was loaded from."""


class Source(Protocol):
    """Files that a model is loaded from."""

    @property
    def name(self) -> str:
        """The name by which it is asked for."""

    @property
    def size_bytes(self) -> int:
        """The bytes of memory that the model will take, roughly."""


ModelT = TypeVar("ModelT", bound=Resident)
SourceT = TypeVar("SourceT", bound=Source)

# Left free for activations, frames and everything else the machine does.
HEADROOM_BYTES = 1024**3


class ResidentModels(Generic[ModelT]):
    """Loaded models by key. Used from one thread.

    Args:
        budget_bytes: the most that all may take together; 0 for as much as `available_bytes` allows.
        available_bytes: returns the bytes that are free now, where the models lie.
        unload: frees a model that leaves.
    """

    def __init__(
        self,
        budget_bytes: int,
        available_bytes: Callable[[], int],
        unload: Callable[[ModelT], None],
    ) -> None:
        self._budget_bytes = budget_bytes
        self._available_bytes = available_bytes
        self._unload = unload
        self._models: OrderedDict[Hashable, tuple[ModelT, int]] = OrderedDict()

    def get(self, key: Hashable) -> ModelT | None:
        """Return the model of that key, now the most recently used, or None."""
        if key not in self._models:
            return None
        self._models.move_to_end(key)
        return self._models[key][0]

    def load(
        self,
        key: Hashable,
        find: Callable[[], SourceT],
        make: Callable[[SourceT], ModelT],
        keep: Collection[Hashable] = (),
    ) -> tuple[ModelT, float]:
        """Return the model and the seconds that loading took; 0 where it was loaded and its files are the same.

        Args:
            find: finds its files.
            make: loads them.
            keep: keys of models that may not leave memory for it.

        Raises:
            OutOfMemoryError: it does not fit.
            BackendError: as `find` and `make`.
        """
        known = self.get(key)
        if known is not None and known.is_current():
            return known, 0.0
        started = perf_counter()
        source = find()
        self.drop(key)
        size_bytes = source.size_bytes
        self.make_room(size_bytes, keep)
        try:
            made = make(source)
        except (RuntimeError, MemoryError) as error:
            if is_out_of_memory(error):
                raise no_room_for(source.name) from error
            raise
        self.put(key, made, size_bytes)
        return made, perf_counter() - started

    def make_room(self, size_bytes: int, keep: Collection[Hashable] = ()) -> None:
        """Let models leave until one of `size_bytes` fits, or none is left but those of the keys in `keep`."""
        while not self._fits(size_bytes):
            oldest = next((key for key in self._models if key not in keep), None)
            if oldest is None:
                return
            self.drop(oldest)

    def put(self, key: Hashable, model: ModelT, size_bytes: int) -> None:
        """Keep the model as the most recently used."""
        self._models[key] = (model, size_bytes)
        self._models.move_to_end(key)

    def drop(self, key: Hashable) -> None:
        """Let one leave, if it is there."""
        found = self._models.pop(key, None)
        if found is not None:
            self._unload(found[0])

    def drop_where(self, is_meant: Callable[[ModelT], bool]) -> None:
        """Let those leave that are meant."""
        for key in [key for key, (model, _) in self._models.items() if is_meant(model)]:
            self.drop(key)

    def clear(self) -> None:
        """Let all leave."""
        while self._models:
            self.drop(next(iter(self._models)))

    def __iter__(self) -> Iterator[ModelT]:
        return iter([model for model, _ in self._models.values()])

    def __len__(self) -> int:
        return len(self._models)

    def _fits(self, size_bytes: int) -> bool:
        used_bytes = sum(size for _, size in self._models.values())
        if self._budget_bytes and used_bytes + size_bytes > self._budget_bytes:
            return False
        return self._available_bytes() >= size_bytes + HEADROOM_BYTES
