"""The choice of ComfyUI releases by `--releases`, tested without one."""

from pathlib import Path

import pytest

from .harness.checkouts import NONE_FOUND, Checkout
from .harness.releases import by_age, is_left_out, report

OLD, MIDDLE, NEW = (Checkout(Path("/") / version, version) for version in ("0.3.64", "0.9.1", "0.33.0"))
FOUND = [OLD, MIDDLE, NEW]


def test_releases_are_compared_by_their_numbers() -> None:
    unknown = Checkout(Path("/unknown"), None)
    assert by_age([NEW, OLD, unknown, MIDDLE]) == [unknown, OLD, MIDDLE, NEW]


@pytest.mark.parametrize(
    ("markers", "kept"),
    [({"comfyui"}, [NEW]), ({"comfyui", "each_release"}, FOUND), ({"comfyui", "oldest_release"}, [OLD])],
)
def test_older_releases_run_what_is_marked(markers: set[str], kept: list[Checkout]) -> None:
    assert [each for each in FOUND if not is_left_out(each, markers, FOUND)] == kept


@pytest.mark.parametrize("markers", [{"comfyui"}, {"each_release"}, {"oldest_release"}])
def test_nothing_is_left_out_where_one_release_is_found(markers: set[str]) -> None:
    assert not is_left_out(OLD, markers, [OLD])


def test_the_header_names_what_is_tested() -> None:
    assert report("newest", []) == f"ComfyUI: {NONE_FOUND}"
    assert report("all", [OLD, NEW]) == f"ComfyUI: {OLD}, {NEW}"
    assert report("newest", [NEW]) == f"ComfyUI: {NEW}"
    assert report("newest", FOUND) == f"ComfyUI (--releases=newest): {NEW}; where releases differ: {OLD}, {MIDDLE}"
