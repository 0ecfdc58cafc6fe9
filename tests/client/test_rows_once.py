"""Equal data is sent once: rows of a batch, and channels that are as in the call before. In exact bytes."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from tests.support.backend import FunctionBackend
from tests.support.worker import ThreadWorker

from comfy_gpu_offload.client.session import Session, SessionOptions
from comfy_gpu_offload.io import codecs
from comfy_gpu_offload.io.buffers import ALIGNMENT
from comfy_gpu_offload.transport.http_transport import HttpTransport

CALLS = 5


@pytest.fixture(scope="module")
def worker() -> Iterator[ThreadWorker]:
    with ThreadWorker(FunctionBackend(echo=lambda x: x)) as made:
        yield made


def bytes_up(
    worker: ThreadWorker, codec: codecs.Codec | codecs.Chooser, rows: int, context: torch.Tensor, *, predict: bool
) -> list[int]:
    """Return the bytes of each call that sends changing noise and, in further channels, always the same context."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(1, 16, 32, 32, generator=generator)
    options = SessionOptions(codec=codec, predict=predict)
    with Session(HttpTransport(worker.address), options) as session:
        model = session.model("echo")
        for _ in range(CALLS):
            sent = torch.cat([x.bfloat16(), context], 1).repeat(rows, 1, 1, 1)
            assert torch.equal(model(sent), sent)
            x = x + torch.randn(x.shape, generator=generator)
        return [timings.bytes_up for timings in model.timings]


NONE = torch.zeros(1, 0, 32, 32).bfloat16()
CONTEXT = torch.randn(1, 24, 32, 32, generator=torch.Generator().manual_seed(1)).bfloat16()


@pytest.mark.parametrize("predict", [False, True])
@pytest.mark.parametrize("codec", [codecs.PLANES, codecs.AUTO], ids=lambda codec: codec.name)
def test_rows_that_are_equal_cost_nothing(
    worker: ThreadWorker, codec: codecs.Codec | codecs.Chooser, predict: bool
) -> None:
    one, two = (bytes_up(worker, codec, rows, NONE, predict=predict) for rows in (1, 2))
    assert two == one


@pytest.mark.parametrize("predict", [False, True])
def test_rows_that_are_equal_cost_zstd_a_few_bytes_a_block(worker: ThreadWorker, predict: bool) -> None:
    one, two = (bytes_up(worker, codecs.ZSTD, rows, NONE, predict=predict) for rows in (1, 2))
    assert all(0 <= b - a <= 32 for a, b in zip(one, two, strict=True))


@pytest.mark.parametrize("codec", [codecs.PLANES, codecs.ZSTD, codecs.AUTO], ids=lambda codec: codec.name)
@pytest.mark.parametrize("rows", [1, 2])
def test_channels_that_stay_cost_a_bit_each(
    worker: ThreadWorker, codec: codecs.Codec | codecs.Chooser, rows: int
) -> None:
    """Though the others are noise that nothing foretells."""
    few, many = (bytes_up(worker, codec, rows, CONTEXT[:, :count], predict=True) for count in (8, 24))
    assert many[0] > few[0] + CONTEXT.nbytes // 3
    # Two bytes of bits more, in a header whose end is aligned.
    assert {b - a for a, b in zip(few[1:], many[1:], strict=True)} <= {0, ALIGNMENT}
    changed = 16 * 32 * 32 * 2
    assert max(many[1:]) < changed + 500


def test_without_prediction_they_cross_in_every_call(worker: ThreadWorker) -> None:
    few, many = (bytes_up(worker, codecs.PLANES, 1, CONTEXT[:, :count], predict=False) for count in (8, 24))
    assert min(b - a for a, b in zip(few, many, strict=True)) > 16 * 32 * 32
