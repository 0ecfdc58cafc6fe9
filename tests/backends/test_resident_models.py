from __future__ import annotations

from dataclasses import dataclass

import pytest

from comfy_gpu_offload.backends.base import OutOfMemoryError
from comfy_gpu_offload.backends.resident_models import HEADROOM_BYTES, ResidentModels


@dataclass(frozen=True)
class File:
    name: str = "a file"
    size_bytes: int = 100


@dataclass
class Model:
    file: File
    current: bool = True

    def is_current(self) -> bool:
        return self.current


class Memory:
    def __init__(self, free: int) -> None:
        self.free = free
        self.left: list[str] = []

    def unload(self, model: str) -> None:
        self.left.append(model)
        self.free += 100


@pytest.fixture
def memory() -> Memory:
    return Memory(HEADROOM_BYTES + 250)


def load(models: ResidentModels[str], memory: Memory, name: str) -> None:
    models.make_room(100)
    models.put(name, name, 100)
    memory.free -= 100


def test_least_recently_used_leave_when_memory_is_short(memory: Memory) -> None:
    models = ResidentModels(0, lambda: memory.free, memory.unload)
    load(models, memory, "a")
    load(models, memory, "b")
    assert models.get("a") == "a"
    load(models, memory, "c")
    assert memory.left == ["b"]
    assert models.get("b") is None


def test_a_budget_holds_whatever_memory_is_free(memory: Memory) -> None:
    memory.free = HEADROOM_BYTES + 10_000
    models = ResidentModels(200, lambda: memory.free, memory.unload)
    for name in "abc":
        load(models, memory, name)
    assert memory.left == ["a"]


def test_one_that_never_fits_empties_the_row_and_is_left_to_the_loader(memory: Memory) -> None:
    models = ResidentModels(0, lambda: memory.free, memory.unload)
    load(models, memory, "a")
    models.make_room(10**12)
    assert len(models) == 0


def test_clear_lets_all_leave(memory: Memory) -> None:
    models = ResidentModels(0, lambda: memory.free, memory.unload)
    load(models, memory, "a")
    load(models, memory, "b")
    models.clear()
    assert sorted(memory.left) == ["a", "b"]


def test_those_in_use_stay_even_where_nothing_else_is_left(memory: Memory) -> None:
    models = ResidentModels(0, lambda: memory.free, memory.unload)
    load(models, memory, "a")
    load(models, memory, "b")
    models.make_room(10**12, keep={"a"})
    assert memory.left == ["b"]
    assert list(models) == ["a"]


def test_a_model_is_made_once_until_its_file_changes(memory: Memory) -> None:
    models: ResidentModels[Model] = ResidentModels(0, lambda: memory.free, memory.unload)
    first, load_s = models.load("key", File, Model)
    assert load_s > 0
    assert models.load("key", File, Model) == (first, 0.0)
    first.current = False
    second, _ = models.load("key", File, Model)
    assert second is not first
    assert memory.left == [first]


def test_what_was_found_stays_where_the_file_is_gone(memory: Memory) -> None:
    def find() -> File:
        raise FileNotFoundError

    models: ResidentModels[Model] = ResidentModels(0, lambda: memory.free, memory.unload)
    first, _ = models.load("key", File, Model)
    first.current = False
    with pytest.raises(FileNotFoundError):
        models.load("key", find, Model)
    assert models.get("key") is first


def test_one_for_which_memory_runs_out_is_named_and_not_kept(memory: Memory) -> None:
    def make(_: File) -> Model:
        raise MemoryError

    models: ResidentModels[Model] = ResidentModels(0, lambda: memory.free, memory.unload)
    with pytest.raises(OutOfMemoryError, match="'a file'"):
        models.load("key", File, make)
    assert len(models) == 0
