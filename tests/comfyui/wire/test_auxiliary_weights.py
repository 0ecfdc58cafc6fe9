"""A model's weights beside its network, and their names in a file."""

import pytest
import torch
from torch import nn

from comfy_gpu_offload.comfyui.wire.auxiliary_weights import auxiliary_weights, named_as_in_file


class Model(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.diffusion_model = nn.Linear(2, 2)
        self.cc_projection = nn.Linear(3, 2)


def test_the_weights_beside_a_network_are_all_but_its_own() -> None:
    assert set(auxiliary_weights(Model())) == {"cc_projection.weight", "cc_projection.bias"}


def test_weights_are_named_as_in_the_file() -> None:
    weight = torch.zeros(1)
    named = named_as_in_file({"seconds_start_embedder.a": weight, "cc_projection.bias": weight})
    assert set(named) == {"conditioner.conditioners.seconds_start.a", "cc_projection.bias"}
    with pytest.raises(KeyError, match="surprise"):
        named_as_in_file({"surprise": weight})
