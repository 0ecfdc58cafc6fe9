from __future__ import annotations

import gc

import torch

from comfy_gpu_offload.io.digests import DIGEST_BYTES, DigestMemo, digest, sample


def test_it_covers_every_byte_the_dtype_and_the_shape() -> None:
    x = torch.arange(64, dtype=torch.uint8)
    names = {digest(x)}
    for position in range(64):
        changed = x.clone()
        changed[position] ^= 1
        names.add(digest(changed))
    names |= {digest(x.view(torch.int8)), digest(x.reshape(8, 8)), digest(x.view(torch.float16))}
    assert len(names) == 68
    assert all(len(name) == DIGEST_BYTES for name in names)


def test_it_covers_the_strides_and_not_the_memory_around() -> None:
    x = torch.randn(6, 8)
    ordered = x.t().contiguous().t()
    assert torch.equal(x, ordered)
    assert digest(x) != digest(ordered) == digest(ordered.clone())
    assert digest(x[2:4]) == digest(x[2:4].clone())


def test_the_memo_tells_one_large_content_in_two_orders_apart() -> None:
    memo = DigestMemo()
    x = torch.randn(200, 200)
    ordered = x.t().contiguous().t()
    assert memo.digest(x) == digest(x) != digest(ordered) == memo.digest(ordered)


def test_the_memo_notices_writes_and_forgets_the_dead() -> None:
    memo = DigestMemo()
    x = torch.zeros(100)
    before = memo.digest(x)
    assert memo.digest(x) == before
    x[50] = 1
    assert memo.digest(x) == digest(x) != before
    del x
    gc.collect()
    assert not memo._memo


def test_the_memo_trusts_no_tensor_whose_changes_it_cannot_see() -> None:
    memo = DigestMemo()
    with torch.inference_mode():
        x = torch.zeros(100)
        before = memo.digest(x)
        x[50] = 1
        assert memo.digest(x) != before


def test_a_large_content_seen_before_is_named_as_it_was_and_no_other_is() -> None:
    memo = DigestMemo()
    x = torch.randn(40_000)
    assert memo.digest(x) == memo.digest(x.clone()) == digest(x)
    others = [x.view(torch.int32), x.reshape(200, 200), x.flip(0), torch.cat([x[:-1], x[:1]])]
    assert [memo.digest(other) for other in others] == [digest(other) for other in others]
    with torch.inference_mode():
        again = x.clone()
        assert memo.digest(again) == digest(x)
        again[50] += 1
        assert memo.digest(again) == digest(again) != digest(x)


def test_the_memo_keeps_the_contents_used_last() -> None:
    memo = DigestMemo()
    first = torch.zeros(20_000)
    for number in range(300):
        memo.digest(torch.full((20_000,), float(number)))
        memo.digest(first.clone())
    assert len(memo._contents) <= 256
    assert digest(first) in memo._contents.values()


def test_different_samples_prove_different_tensors() -> None:
    x = torch.randn(10_000)
    assert sample(x) == sample(x.clone())
    assert sample(x) != sample(x + 1)
    assert sample(x) != sample(x.view(torch.int32))
    assert sample(torch.empty(0)) == sample(torch.empty(0))
