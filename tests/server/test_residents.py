from __future__ import annotations

import pytest

from comfy_gpu_offload.server.backends.residents import HEADROOM_BYTES, ResidentModels


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
