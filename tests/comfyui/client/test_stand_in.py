"""The stand-in for a network answers as the network does, calls the worker, and refuses changes by name."""

from __future__ import annotations

import copy
import pickle
import re
from typing import Any

import pytest
import torch
from torch import nn

from comfy_gpu_offload.errors import RemoteWeightError, RemoteWeightsError, UnsupportedPatchError

from .conftest import Sides, sampled

X, TIMES = torch.ones(1, 4, 2, 2), torch.ones(1)


def loader_epoch() -> int:
    from comfy_gpu_offload.comfyui.client import loader_epoch

    return loader_epoch.current()


def test_a_run_gives_what_the_network_here_gives(sides: Sides) -> None:
    assert sides.same()
    assert sides.calls == 2


def test_it_looks_like_the_network(sides: Sides) -> None:
    import comfy.ldm.stand_in

    network = sides.network
    assert isinstance(network, comfy.ldm.stand_in.Network)
    assert network.__class__.__name__ == "Network"
    assert [type(child) for child in network.children()] == [nn.Linear, nn.ModuleList]
    assert network.layer.in_features == 4
    assert network.dtype is torch.float32
    assert not hasattr(network, "no_such_thing")


def test_its_state_dict_has_the_workers_keys_and_no_data(sides: Sides) -> None:
    there, here = sides.remote.model.state_dict(), sides.local.model.state_dict()
    network_keys = [key for key in here if key.startswith("diffusion_model.")]
    assert [key for key in there if key.startswith("diffusion_model.")] == network_keys
    for key in network_keys:
        assert (there[key].shape, there[key].dtype) == (here[key].shape, here[key].dtype)
        with pytest.raises(RemoteWeightError, match=key):
            there[key].sum()


def test_a_method_that_comfyui_calls_besides_runs_at_the_worker(sides: Sides) -> None:
    assert torch.equal(sides.network.preprocess_text_embeds(torch.zeros(2)), torch.ones(2))
    assert sides.calls == 1


def test_wrappers_run_here_and_may_skip_the_call(sides: Sides) -> None:
    seen = []

    def halves(executor: Any, x: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
        seen.append(executor.class_obj)
        return executor(x / 2, *args, **kwargs)

    def skips(executor: Any, x: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
        return x

    wrappers = {"diffusion_model": {"a": [halves]}}
    got = sides.network(X, TIMES, transformer_options={"wrappers": wrappers})
    assert torch.equal(got, sides.network(X / 2, TIMES))
    assert seen == [sides.network]
    calls = sides.calls
    got = sides.network(X, TIMES, transformer_options={"wrappers": {"diffusion_model": {"b": [skips]}}})
    assert torch.equal(got, X)
    assert sides.calls == calls


def test_a_network_that_runs_no_wrappers_has_none_run(sides: Sides) -> None:
    from comfy_gpu_offload.comfyui.client.remote_state import state_of

    state_of(sides.network).runs_wrappers = False
    wrappers = {"diffusion_model": {"a": [lambda *_, **__: pytest.fail("a wrapper ran")]}}
    sides.network(X, TIMES, transformer_options={"wrappers": wrappers})


def test_whether_a_network_runs_wrappers_is_read_from_its_code(sides: Sides) -> None:
    import comfy.ldm.stand_in

    from comfy_gpu_offload.comfyui.client.stand_in import runs_wrappers

    assert runs_wrappers(comfy.ldm.stand_in.Network)
    assert not runs_wrappers(nn.Linear)


def a_method(network: Any) -> None:
    network.forward = lambda *_, **__: None


def a_part(network: Any) -> None:
    network.layer = nn.Linear(4, 4)


def a_class(network: Any) -> None:
    network.blocks[0].__class__ = type("Block", (nn.Identity,), {})


def a_method_of_a_part(network: Any) -> None:
    network.layer.forward = lambda x: x


def a_part_more(network: Any) -> None:
    network.blocks.append(nn.Identity())


def a_hook(network: Any) -> None:
    network.layer.register_forward_hook(lambda *_: None)


WRITES = [a_method, a_part, a_class, a_method_of_a_part, a_part_more, a_hook]


@pytest.mark.parametrize("change", WRITES, ids=lambda change: change.__name__)
def test_a_change_of_the_network_is_refused_and_makes_it_unusable(sides: Sides, change: Any) -> None:
    before, epoch = sides.calls, loader_epoch()
    with pytest.raises(UnsupportedPatchError, match="the change to the network's"):
        _changed_and_called(sides.network, change)
    with pytest.raises(UnsupportedPatchError, match="the change to the network's"):
        sampled(sides.remote)
    assert sides.calls == before
    assert loader_epoch() > epoch


def _changed_and_called(network: Any, change: Any) -> None:
    change(network)
    network(X, TIMES)


def test_a_refused_write_names_the_code_that_made_it(sides: Sides) -> None:
    with pytest.raises(UnsupportedPatchError, match=r"network's layer \(test_stand_in: a_part\)"):
        a_part(sides.network)


def test_a_refused_write_that_is_caught_is_refused_again(sides: Sides) -> None:
    with pytest.raises(UnsupportedPatchError):
        sides.network.layer = nn.Identity()
    with pytest.raises(UnsupportedPatchError, match="network's layer"):
        sides.network(X, TIMES)


def test_a_removed_part_is_refused_at_the_next_call(sides: Sides) -> None:
    del sides.network.layer
    with pytest.raises(UnsupportedPatchError, match="network's layer"):
        sides.network(X, TIMES)


def test_a_mark_that_the_network_does_not_know_may_be_set_and_removed(sides: Sides) -> None:
    sides.network.somebodys_mark = 3
    assert sides.network.somebodys_mark == 3
    del sides.network.somebodys_mark
    assert not hasattr(sides.network, "somebodys_mark")
    sides.network.eval()
    assert sides.same()


def test_replaced_code_of_comfyui_is_refused_while_it_is_replaced(
    sides: Sides, monkeypatch: pytest.MonkeyPatch
) -> None:
    import comfy.ldm.stand_in

    with monkeypatch.context() as replaced:
        replaced.setattr(comfy.ldm.stand_in.Network, "_forward", a_method)
        with pytest.raises(UnsupportedPatchError, match=r"network's Network\._forward, for every model.*a_method"):
            sides.network(X, TIMES)
    assert sides.same()


def test_it_is_not_copied(sides: Sides) -> None:
    with pytest.raises(RemoteWeightsError, match="to copy the network"):
        copy.deepcopy(sides.network)
    with pytest.raises((RemoteWeightError, AttributeError, pickle.PicklingError)):
        pickle.dumps(sides.network.layer.weight)


def test_it_takes_no_weights(sides: Sides) -> None:
    with pytest.raises(UnsupportedPatchError, match="network's weights"):
        sides.network.load_state_dict({})


def test_moving_it_does_nothing_and_converting_it_is_refused(sides: Sides) -> None:
    assert sides.network.to("cpu") is sides.network
    assert sides.network.to(torch.float32) is sides.network
    assert sides.same()
    with pytest.raises(UnsupportedPatchError, match=r"network's dtype, to torch\.float16"):
        sides.network.half()


def test_converting_its_memory_format_is_refused(sides: Sides) -> None:
    with pytest.raises(UnsupportedPatchError, match="network's memory format"):
        sides.network.to(memory_format=torch.channels_last)


def test_weights_that_patches_make_larger_are_shown_so_and_back(sides: Sides) -> None:
    key = "diffusion_model.layer.weight"
    sides.network.grow({key: (4, 6)})
    assert sides.network.layer.weight.shape == (4, 6)
    assert sides.remote.model.state_dict()[key].shape == (4, 6)
    assert sides.network.in_file(key).shape == (4, 4)
    assert sides.network.found_change_in_depth() is None
    sides.network.grow({})
    assert sides.network.layer.weight.shape == (4, 4)
    assert sides.remote.model.state_dict()[key].shape == (4, 4)
    assert sides.same()


def test_a_changed_network_does_not_grow(sides: Sides) -> None:
    sides.network.layer.in_features = 6
    with pytest.raises(UnsupportedPatchError, match=r"layer\.in_features"):
        sides.network.grow({"diffusion_model.layer.weight": (4, 6)})


class Mode(torch.overrides.TorchFunctionMode):
    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return func(*args, **(kwargs or {}))


def forward_derivatives(network: Any) -> Any:
    with torch.autograd.forward_ad.dual_level():
        return network(X, TIMES)


def a_mode_of_a_packs(network: Any) -> Any:
    with Mode():
        return network(X, TIMES)


FOLLOWED = {
    "a gradient through the network": lambda network: network(X.clone().requires_grad_(), TIMES),
    "torch.func": lambda network: torch.func.vmap(lambda x: network(x[None], TIMES))(X),
    "forward derivatives": forward_derivatives,
    "the mode Mode, which replaces torch's functions": a_mode_of_a_packs,
}


@pytest.mark.parametrize("what", FOLLOWED)
def test_a_call_that_torch_would_have_to_follow_is_refused(sides: Sides, what: str) -> None:
    with pytest.raises(UnsupportedPatchError, match=re.escape(what)):
        FOLLOWED[what](sides.network)
    assert sides.calls == 0


def test_a_mode_of_torchs_own_is_no_reason(sides: Sides) -> None:
    with torch.device("cpu"):
        assert sides.same()


def test_each_run_is_warned_of_its_control_nets_once(sides: Sides) -> None:
    from comfy_gpu_offload.comfyui.client.remote_state import state_of

    state = state_of(sides.network)
    assert [state.first_control_warning() for _ in range(2)] == [True, False]
    state.begin_run(None)
    assert [state.first_control_warning() for _ in range(2)] == [True, False]
