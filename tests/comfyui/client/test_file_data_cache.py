"""Tokenizers of a worker's files: fetched once, checked whenever they are read, fetched again where they fail."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from tests.support.comfy_stand_in.fixtures import StandIn

from comfy_gpu_offload.comfyui.wire.file_contents import LargeTensor
from comfy_gpu_offload.errors import MessageError
from comfy_gpu_offload.io.digests import digest

WORDS = torch.arange(100_000).to(torch.uint8)
WANTED = LargeTensor(digest(WORDS), len(WORDS))


@pytest.fixture
def cache(comfy_stand_in: StandIn, tmp_path: Path) -> Any:
    from comfy_gpu_offload.comfyui.client.file_data_cache import FileDataCache

    return FileDataCache(tmp_path / "kept")


def never() -> torch.Tensor:
    raise AssertionError("fetched again")


def test_a_tensor_is_fetched_once(cache: Any) -> None:
    assert torch.equal(cache.get(WANTED, lambda: WORDS), WORDS)
    assert torch.equal(cache.get(WANTED, never), WORDS)


@pytest.mark.parametrize("content", [b"", bytes(len(WORDS))])
def test_a_damaged_file_is_fetched_again(cache: Any, tmp_path: Path, content: bytes) -> None:
    cache.get(WANTED, lambda: WORDS)
    (tmp_path / "kept" / WANTED.digest.hex()).write_bytes(content)
    assert torch.equal(cache.get(WANTED, lambda: WORDS), WORDS)
    assert torch.equal(cache.get(WANTED, never), WORDS)


@pytest.mark.parametrize("sent", [torch.zeros(3), None, WORDS[:-1]])
def test_another_tensor_than_was_asked_for_is_refused(cache: Any, sent: Any) -> None:
    with pytest.raises(MessageError, match="another tensor"):
        cache.get(WANTED, lambda: sent)


def test_one_that_is_too_large_is_not_asked_for(cache: Any) -> None:
    with pytest.raises(MessageError, match="no tokenizer"):
        cache.get(LargeTensor(bytes(32), 2**40), never)


def test_where_the_disk_takes_nothing_it_is_fetched_each_time(
    cache: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "kept").write_text("a file")
    assert torch.equal(cache.get(WANTED, lambda: WORDS), WORDS)
    assert "tokenizers are not kept" in caplog.text


def test_the_oldest_make_room(cache: Any, tmp_path: Path) -> None:
    for number in range(40):
        words = torch.full((70_000,), number, dtype=torch.uint8)
        cache.get(LargeTensor(digest(words), len(words)), lambda words=words: words)
    assert len(list((tmp_path / "kept").iterdir())) == 32
