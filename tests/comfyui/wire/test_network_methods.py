"""What a call may ask of a network besides its forward pass, and what goes with a model besides its network."""

import pytest
import torch
from torch import nn

from comfy_gpu_offload.backends.base import ModelRunError
from comfy_gpu_offload.comfyui.wire.auxiliary_weights import as_in_file, weights_beside
from comfy_gpu_offload.comfyui.wire.network_methods import METHOD, called


class Network(nn.Linear):
    def preprocess_text_embeds(self, text: torch.Tensor) -> torch.Tensor:
        return text + 1


class Model(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.diffusion_model = Network(2, 2)
        self.cc_projection = nn.Linear(3, 2)


def test_a_call_without_a_method_is_for_the_network() -> None:
    network, kwargs = Network(2, 2), {"context": 1}
    assert called(network, kwargs) is network
    assert kwargs == {"context": 1}


def test_a_known_method_is_called_and_the_network_never_sees_its_name() -> None:
    kwargs = {METHOD: "preprocess_text_embeds"}
    assert torch.equal(called(Network(2, 2), kwargs)(torch.zeros(2)), torch.ones(2))
    assert kwargs == {}


@pytest.mark.parametrize("name", ["load_state_dict", "zero_grad", "__init__", 3, None])
def test_any_other_method_is_refused(name: object) -> None:
    with pytest.raises(ModelRunError, match="no "):
        called(Network(2, 2), {METHOD: name})


def test_a_network_without_the_method_is_refused() -> None:
    with pytest.raises(ModelRunError, match="preprocess_text_embeds"):
        called(nn.Linear(2, 2), {METHOD: "preprocess_text_embeds"})


def test_the_weights_beside_a_network_are_all_but_its_own() -> None:
    assert set(weights_beside(Model())) == {"cc_projection.weight", "cc_projection.bias"}


def test_weights_are_named_as_in_the_file() -> None:
    weight = torch.zeros(1)
    named = as_in_file({"seconds_start_embedder.a": weight, "cc_projection.bias": weight})
    assert set(named) == {"conditioner.conditioners.seconds_start.a", "cc_projection.bias"}
    with pytest.raises(KeyError, match="surprise"):
        as_in_file({"surprise": weight})
