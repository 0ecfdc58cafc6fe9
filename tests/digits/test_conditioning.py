import pytest
import torch

from comfy_gpu_offload.digits.conditioning import TOKENS, conditioning, unconditional


def test_shapes_and_dtypes() -> None:
    for context, pooled in (conditioning([3, 1, 4]), unconditional(3)):
        assert context.shape == (3, TOKENS, 48)
        assert context.dtype == torch.float32
        assert pooled.shape == (3, 64)
        assert pooled.dtype == torch.float32


def test_every_label_and_the_dropped_one_have_their_own_code() -> None:
    labelled_context, labelled_pooled = conditioning(range(10))
    dropped_context, dropped_pooled = unconditional(1)
    contexts = torch.cat([labelled_context, dropped_context]).flatten(1).tolist()
    pooled = torch.cat([labelled_pooled, dropped_pooled]).tolist()
    assert len({tuple(code) for code in contexts}) == 11
    assert len({tuple(code) for code in pooled}) == 11


def test_the_code_is_the_label() -> None:
    context, pooled = conditioning([7])
    assert pooled.nonzero().tolist() == [[0, 7]]
    assert context[0].nonzero().tolist() == [[token, at] for token in range(4) for at in (7, 11 + token)]
    assert context.sum() == context.count_nonzero()
    assert pooled.sum() == 1


def test_a_code_does_not_depend_on_its_batch() -> None:
    context, pooled = conditioning([2, 9, 2])
    alone_context, alone_pooled = conditioning([9])
    assert torch.equal(context[1], alone_context[0])
    assert torch.equal(pooled[1], alone_pooled[0])
    assert torch.equal(context[0], context[2])


@pytest.mark.parametrize("label", [-1, 10])
def test_another_label_is_refused(label: int) -> None:
    with pytest.raises(ValueError, match=f"not {label}"):
        conditioning([0, label])
