"""The setting that is advised: `auto`, unless a gain is beyond what measurements differ by."""

from __future__ import annotations

import pytest

from comfy_gpu_offload.tuning.advice import advised
from comfy_gpu_offload.tuning.step_prediction import Prediction


def predicted(choice: str, step_s: float, spread_s: float) -> Prediction:
    return Prediction(choice, choice, 1e3, 1e3, 0.0, 0.1, step_s, spread_s)


@pytest.mark.parametrize(
    ("auto", "other", "kept"),
    [
        ((1.0, 0.0), (0.99, 0.0), True),  # within 2 %
        ((1.0, 0.0), (0.9, 0.0), False),
        ((1.0, 0.06), (0.9, 0.06), True),  # within what both differ by
        ((1.0, 0.04), (0.9, 0.04), False),
        ((0.9, 0.0), (1.0, 0.0), True),
    ],
)
def test_auto_is_kept_unless_another_setting_gains_more_than_measurements_differ(
    auto: tuple[float, float], other: tuple[float, float], kept: bool
) -> None:
    best = advised([predicted("planes", *other), predicted("auto", *auto)])
    assert best.choice == ("auto" if kept else "planes")
