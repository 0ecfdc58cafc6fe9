"""A latent of several parts."""

from typing import Any


class NestedTensor:
    """Tensors side by side."""

    def __init__(self, tensors: list[Any]) -> None:
        self.tensors = list(tensors)
