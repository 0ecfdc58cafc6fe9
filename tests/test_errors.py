"""The tree of errors in the module's docstring is that of the classes, and messages say what to do."""

from __future__ import annotations

import re

import pytest

from comfy_gpu_offload import errors
from comfy_gpu_offload.errors import Obstacle, OffloadError

_LINE = re.compile(r"^(?P<indent>[│ ]*)[├└]── (?P<name>\w+)", re.MULTILINE)


def test_the_tree_in_the_docstring_is_that_of_the_classes() -> None:
    path, listed = ["OffloadError"], {}
    for line in _LINE.finditer(errors.__doc__ or ""):
        depth = len(line["indent"]) // 4 + 1
        path[depth:] = [line["name"]]
        listed[line["name"]] = path[depth - 1]
    classes = {
        name: value.__mro__[1].__name__
        for name, value in vars(errors).items()
        if isinstance(value, type) and issubclass(value, OffloadError) and value is not OffloadError
    }
    assert listed == classes


def test_an_obstacle_says_what_it_is_whose_and_what_to_do() -> None:
    obstacle = Obstacle("the injection 'a'", "some pack", "Bypass the node.")
    assert obstacle.summary == "the injection 'a' (some pack)"
    assert str(obstacle) == "the injection 'a' (some pack). Bypass the node."


@pytest.mark.parametrize(
    "error",
    [
        errors.UnsupportedPatchError((Obstacle("a patch", "a node", "Bypass the node."),)),
        errors.UnsupportedRunError("a"),
        errors.UnsupportedCodecError(("zstd",), "9.9", ("none", "lz4")),
        errors.RemoteMergeError("model"),
        errors.RemoteMergeError(),
        errors.RemoteWeightsError("model", "to save them"),
        errors.RemoteWeightError("model", "key", "node"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_a_message_ends_with_what_to_do(error: OffloadError) -> None:
    what, _, remedy = str(error).replace("\n", " ").partition(". ")
    assert what
    assert re.match(r"(To|In|Install|Load|Bypass) ?", remedy), str(error)
    assert str(error).endswith(".")
