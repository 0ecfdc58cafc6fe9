"""What a side can do besides coding tensors. It says so among its codecs: older ones know no other place."""

from __future__ import annotations

from typing import Final

from . import history

STRIDES: Final = "strides"
"""It reads tensors with strides of their own."""

AUTOCAST: Final = "autocast"
"""It computes under the client's `torch.autocast`."""

ABILITIES: Final = (history.NAME, STRIDES, AUTOCAST)
