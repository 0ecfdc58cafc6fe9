from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.rental.command_process import Place
from tests.support.runpod_cloud import RunpodCloud
from tests.support.runpod_cloud.containers import worker

DIGITS = ("--backend", "diffusers", "--cpu")


@pytest.fixture
def digits(tmp_path: Path) -> Iterator[Place]:
    """Give a user's folder, and a cloud whose pods and endpoints hold a worker with the digits model."""
    (tmp_path / "worker").mkdir()
    (tmp_path / "user").mkdir()
    with (
        RunpodCloud(worker(*DIGITS, folder=tmp_path / "worker")) as cloud,
        Place(tmp_path / "user", cloud) as place,
    ):
        yield place


@pytest.fixture
def empty(tmp_path: Path) -> Iterator[Place]:
    """Give a user's folder, and a cloud whose pods hold nothing."""
    with RunpodCloud() as cloud, Place(tmp_path, cloud) as place:
        yield place
