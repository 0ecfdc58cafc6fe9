import pytest
import torch

from comfy_gpu_offload.io.kept.derivation import Derivation, DerivationError, Step

SOURCE = torch.arange(12, dtype=torch.float32).reshape(1, 3, 4)
NAME = b"s" * 32
MALFORMED = {
    "no source": Derivation((), (Step("clone", (0,)),)),
    "no step": Derivation((NAME,), ()),
    "many steps": Derivation((NAME,), (Step("clone", (0,)),) * 33),
    "a tensor that is not there": Derivation((NAME,), (Step("clone", (1,)),)),
    "a tensor before the first": Derivation((NAME,), (Step("clone", (-1,)),)),
    "no tensor": Derivation((NAME,), (Step("clone", ()),)),
    "two tensors for one": Derivation((NAME,), (Step("clone", (0, 0)),)),
    "an unknown operation": Derivation((NAME,), (Step("exec", (0,)),)),
    "numbers that it does not take": Derivation((NAME,), (Step("clone", (0,), (1,)),)),
    "no dtype": Derivation((NAME,), (Step("cast", (0,)),)),
    "a dtype that rounds by processor": Derivation((NAME,), (Step("cast", (0,), (), "int32"),)),
    "a dtype where none belongs": Derivation((NAME,), (Step("clone", (0,), (), "float16"),)),
    "a size that overflows": Derivation((NAME,), (Step("repeat", (0,), (2**61, 2**61, 2**61)),)),
    "much memory": Derivation((NAME,), (Step("repeat", (0,), (2**40, 1, 1)),)),
    "much that is no memory": Derivation((NAME,), (Step("expand", (0,), (2**40, 3, 4)),)),
    "much on the way": Derivation((NAME,), (Step("repeat", (0,), (2**40, 1, 1)), Step("narrow", (1,), (0, 0, 1)))),
    "out of range": Derivation((NAME,), (Step("narrow", (0,), (1, 2, 9)),)),
    "dtypes of several kinds": Derivation((NAME,), (Step("cast", (0,), (), "float16"), Step("cat", (0, 1), (0,)))),
}


@pytest.mark.parametrize("name", MALFORMED)
def test_what_is_malformed_or_too_large_is_refused(name: str) -> None:
    with pytest.raises(DerivationError):
        MALFORMED[name].evaluate([SOURCE], 4096)


def test_more_or_fewer_sources_than_named_are_refused() -> None:
    made = Derivation((NAME,), (Step("clone", (0,)),))
    for sources in ([], [SOURCE, SOURCE]):
        with pytest.raises(DerivationError):
            made.evaluate(sources, 4096)


def test_names_tell_derivations_apart() -> None:
    many = [
        Derivation((NAME,), (Step("cast", (0,), (), "float16"),)),
        Derivation((NAME,), (Step("cast", (0,), (), "bfloat16"),)),
        Derivation((b"t" * 32,), (Step("cast", (0,), (), "float16"),)),
        Derivation((NAME,), (Step("narrow", (0,), (1, 0, 2)),)),
        Derivation((NAME,), (Step("narrow", (0,), (1, 1, 2)),)),
        Derivation((NAME, NAME), (Step("cat", (0, 1), (1,)),)),
    ]
    assert len({each.name for each in many}) == len(many)
    assert {len(each.name) for each in many} == {32}
    assert many[0].name == Derivation((NAME,), (Step("cast", (0,), (), "float16"),)).name
