"""A few runs of each kind in which one thing goes wrong, with a real worker process."""

from __future__ import annotations

import pytest
from tests.support.nginx import needs_nginx

pytest.importorskip("diffusers")


def _failed(runs: dict[str, int], *through: str) -> list[object]:
    """Return the runs that ended other than exactly."""
    import torch

    from faults_run import outcomes, results_of

    threads = torch.get_num_threads()
    try:
        made = list(outcomes(runs, seed=3, silence_s=2.0, through=list(through)))  # type: ignore[arg-type]
    finally:
        torch.set_num_threads(threads)
    assert len(made) == sum(runs.values())
    assert results_of(made).tables[0].text()
    return [outcome for outcome in made if outcome.ended != "exact"]


@pytest.mark.parametrize("runs", [{"kill": 1}, {"cut": 4, "flip": 4, "head": 6, "silence": 2}], ids=list)
def test_whatever_goes_wrong_once_ends_no_run(runs: dict[str, int]) -> None:
    assert _failed(runs, "direct") == []


@needs_nginx
def test_a_proxy_that_is_reloaded_and_restarted_ends_no_run() -> None:
    assert _failed({"cut": 2, "reload": 2, "restart": 2}, "nginx") == []
