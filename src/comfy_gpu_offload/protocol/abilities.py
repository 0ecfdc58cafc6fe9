"""What a side can do besides coding tensors. It says so among its codecs: older ones know no other place."""

from __future__ import annotations

from typing import Final

PREDICTED: Final = "predicted"
"""It predicts latents of a run from earlier calls; docs/prediction.md."""


STRIDES: Final = "strides"
"""It reads tensors with strides of their own."""

AUTOCAST: Final = "autocast"
"""It computes under the client's `torch.autocast`."""

ABILITIES: Final = (PREDICTED, STRIDES, AUTOCAST)
