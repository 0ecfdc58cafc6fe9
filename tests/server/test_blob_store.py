from __future__ import annotations

import torch

from comfy_gpu_offload.io.digests import digest
from comfy_gpu_offload.server.blob_store import BlobStore


def put(store: BlobStore, tensor: torch.Tensor) -> bytes:
    name = digest(tensor)
    store.put(name, tensor)
    return name


def test_keeps_a_copy_that_neither_side_can_change() -> None:
    store = BlobStore(1024)
    given = torch.arange(4.0)
    name = put(store, given)
    given.zero_()
    first = store.get(name)
    assert first is not None
    first.zero_()
    second = store.get(name)
    assert second is not None
    assert torch.equal(second, torch.arange(4.0))


def test_least_recently_used_leave_when_the_budget_is_spent() -> None:
    store = BlobStore(3 * 16)
    names = [put(store, torch.full((4,), float(i))) for i in range(3)]
    assert store.get(names[0]) is not None  # now the most recently used
    put(store, torch.full((4,), 9.0))
    assert store.get(names[1]) is None
    assert store.get(names[0]) is not None
    assert store.used_bytes == 3 * 16


def test_one_that_comes_again_counts_as_used() -> None:
    store = BlobStore(2 * 16)
    first, second = put(store, torch.zeros(4)), put(store, torch.ones(4))
    put(store, torch.zeros(4))  # of another client
    put(store, torch.full((4,), 9.0))
    assert store.get(first) is not None
    assert store.get(second) is None


def test_one_that_is_larger_than_the_budget_is_not_kept_and_drives_nothing_out() -> None:
    store = BlobStore(16)
    small = put(store, torch.zeros(4))
    large = put(store, torch.zeros(5))
    assert store.get(large) is None
    assert store.get(small) is not None


def test_the_same_tensor_counts_once() -> None:
    store = BlobStore(1024)
    put(store, torch.ones(4))
    put(store, torch.ones(4))
    assert store.used_bytes == 16
