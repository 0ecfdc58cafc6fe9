"""A few runs of each kind in which one thing goes wrong, with a real worker process."""

from __future__ import annotations

import pytest

pytest.importorskip("diffusers")


@pytest.mark.parametrize("runs", [{"kill": 1}, {"cut": 4, "flip": 4, "head": 6, "silence": 2}], ids=list)
def test_whatever_goes_wrong_once_ends_no_run(runs: dict[str, int]) -> None:
    import torch

    from faults_run import outcomes, results_of

    threads = torch.get_num_threads()
    try:
        made = list(outcomes(runs, seed=3, silence_s=2.0))  # type: ignore[arg-type]
    finally:
        torch.set_num_threads(threads)
    assert [outcome for outcome in made if outcome.ended != "exact"] == []
    assert len(made) == sum(runs.values())
    assert results_of(made).tables[0].text()
