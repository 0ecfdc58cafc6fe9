"""The setting to choose, by predictions and by how much measurements differ."""

from __future__ import annotations

from collections.abc import Sequence

from .step_prediction import Prediction

DEFAULT = "auto"
"""The setting that is kept unless another one gains."""

# A choice that gains less than this over the default is not worth a setting.
_WORTHWHILE = 0.02


def advised(predictions: Sequence[Prediction]) -> Prediction:
    """Return the setting to choose: the default, `auto`, unless another one's gain is beyond what measuring tells.

    `auto` also adapts when the line changes, so a gain that may be noise is no reason to give it up.
    """
    best = min(predictions, key=lambda each: each.step_s)
    default = next((each for each in predictions if each.choice == DEFAULT), best)
    return best if default.step_s - best.step_s > least_gain(default, best) else default


def least_gain(default: Prediction, other: Prediction) -> float:
    """Return the seconds a step that `other` has to gain over `default` before it is worth a setting."""
    return max(_WORTHWHILE * default.step_s, other.spread_s + default.spread_s)
