"""A ControlNet at the worker is computed there, in the model's calls; one that runs here sends its outputs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from tests.support.comfy_stand_in.fixtures import StandIn

from comfy_gpu_offload.errors import MessageError, RemoteControlNetError

from .conftest import Sides

X, TIMES, CONTEXT = torch.ones(1, 4, 2, 2), torch.full((1,), 0.5), torch.full((1, 2, 8), 0.25)
PICTURE = torch.linspace(0, 1, 3 * 16 * 16).reshape(1, 3, 16, 16)
COND = {"c_crossattn": CONTEXT}
GOOD: dict[str, Any] = {
    "reads_latent": True,
    "compute_dtype": None,
    "compression_ratio": 8,
    "upscale_algorithm": "nearest-exact",
    "needs_vae": False,
    "preprocessing": "none",
    "concat_mask": False,
    "extra_conds": ["y"],
}


@pytest.fixture
def nets(sides: Sides, comfy_stand_in: StandIn) -> tuple[Any, Any]:
    """Give the same ControlNet at the worker and here, each applied to the same picture."""
    import comfy.controlnet

    from comfy_gpu_offload.comfyui.client.remote_control_net import RemoteControlNet
    from comfy_gpu_offload.comfyui.wire.control_data import PREFIX

    path = comfy_stand_in.write_control_net("edges.safetensors", 0.5)
    remote = RemoteControlNet(sides.session.model(PREFIX + "edges.safetensors"))
    local = comfy.controlnet.load_controlnet(str(path))
    assert local is not None
    return applied(remote), applied(local)


def applied(net: Any, strength: float = 0.75) -> Any:
    made = net.copy()
    made.set_cond_hint(PICTURE, strength)
    return made


def given(net: Any, model: Any) -> Any:
    net.pre_run(model, lambda percent: 1.0 - percent)
    return net.get_control(X, TIMES, COND, 1, {})


def called(net: Any, patcher: Any) -> torch.Tensor:
    control = given(net, patcher.model)
    times = patcher.model.model_sampling.timestep(TIMES)
    result: torch.Tensor = patcher.model.diffusion_model(X, times, context=CONTEXT, control=control)
    return result


def test_it_gives_what_it_gives_here(sides: Sides, nets: tuple[Any, Any]) -> None:
    remote, local = nets
    there = called(remote, sides.remote)
    assert torch.equal(there, called(local, sides.local))
    assert not torch.equal(there, sides.network(X, TIMES * 1000, context=CONTEXT))


def test_one_after_one_that_runs_here(sides: Sides, nets: tuple[Any, Any], caplog: Any) -> None:
    remote, local = nets
    remote.set_previous_controlnet(local.copy())
    other = applied(local)
    other.set_previous_controlnet(local.copy())
    assert torch.equal(called(remote, sides.remote), called(other, sides.local))
    called(remote, sides.remote)
    assert caplog.text.count("A ControlNet or T2I adapter runs here: it adds up to 0.0 MB") == 1


def test_one_that_runs_here_after_it_is_refused(sides: Sides, nets: tuple[Any, Any]) -> None:
    remote, local = nets
    local.set_previous_controlnet(remote)
    with pytest.raises(RemoteControlNetError, match="Apply the one that runs here first"):
        given(local, sides.remote.model)


def test_outside_of_its_part_of_the_run_it_is_not_there(sides: Sides, nets: tuple[Any, Any]) -> None:
    remote, _ = nets
    remote.timestep_percent_range = (0.75, 1.0)
    assert given(remote, sides.remote.model) is None
    before = remote.copy()
    before.timestep_percent_range = (0.0, 1.0)
    remote.set_previous_controlnet(before)
    assert given(remote, sides.remote.model).applied["strength"] == 0.75


def test_with_a_model_that_is_here_it_is_refused(sides: Sides, nets: tuple[Any, Any]) -> None:
    with pytest.raises(RemoteControlNetError, match=r"cannot be used with a model on this machine.*Load Control"):
        nets[0].pre_run(sides.local.model, lambda percent: percent)


def test_without_a_picture_it_is_refused(sides: Sides, nets: tuple[Any, Any]) -> None:
    from comfy_gpu_offload.comfyui.client.remote_control_net import RemoteControlNet

    with pytest.raises(RemoteControlNetError, match="no picture: connect it to Apply ControlNet"):
        given(RemoteControlNet(nets[0].remote), sides.remote.model)


def test_an_argument_that_is_not_known_is_refused(sides: Sides, nets: tuple[Any, Any]) -> None:
    nets[0].extra_args["somebodys"] = 3
    with pytest.raises(RemoteControlNetError, match=r"argument 'somebodys' cannot be sent to the worker\. Bypass"):
        given(nets[0], sides.remote.model)


def test_one_that_needs_a_vae_encodes_its_picture_once_for_each_size(sides: Sides, nets: tuple[Any, Any]) -> None:
    from comfy_gpu_offload.comfyui.client.remote_control_net import ControlNetFacts

    encoded: list[torch.Size] = []

    def encode(image: torch.Tensor) -> torch.Tensor:
        encoded.append(image.shape)
        return torch.zeros(1, 4, 2, 2)

    remote, _ = nets
    remote.facts = ControlNetFacts.of({"control_net": GOOD | {"needs_vae": True, "compression_ratio": 1}})
    with pytest.raises(RemoteControlNetError, match="needs a VAE: connect one"):
        remote.applied(2, 2)
    remote.compression_ratio, remote.vae = 1, SimpleNamespace(encode=encode, spacial_compression_encode=lambda: 8)
    for _ in range(2):
        assert remote.applied(2, 2)["encoded"] is True
    assert encoded == [(1, 16, 16, 3)]
    remote.applied(4, 2)
    assert encoded[1:] == [(1, 16, 32, 3)]
    remote.cleanup()
    remote.applied(4, 2)
    assert len(encoded) == 3


def test_a_copy_is_of_the_same_network(nets: tuple[Any, Any]) -> None:
    remote, _ = nets
    made = remote.copy()
    assert made is not remote
    assert made.remote is remote.remote
    assert made.strength == 0.75
    device = torch.device("cpu")
    clone = remote.deepclone_multigpu(device, autoregister=True)
    assert remote.multigpu_clones == {device: clone}


@pytest.mark.parametrize("kind", ["ControlLora", "ControlNetSD35"])
def test_one_here_that_takes_the_models_weights_is_refused_before_the_run(sides: Sides, kind: str) -> None:
    import comfy.controlnet

    net = getattr(comfy.controlnet, kind)(comfy.controlnet.ControlModel(torch.ones(1)))
    chained = comfy.controlnet.ControlNet(net.control_model)
    chained.set_previous_controlnet(net)
    assert sides.remote.model.extra_conds_shapes(control=None) == {}
    for control in (net, chained):
        with pytest.raises(RemoteControlNetError, match=rf"\(a {kind}\) needs some of .*Remote ControlNet Loader"):
            sides.remote.model.extra_conds_shapes(control=control)


def test_an_input_that_equals_one_of_the_calls_is_sent_once(sides: Sides, nets: tuple[Any, Any]) -> None:
    from comfy_gpu_offload.comfyui.client.control_payload import control_to_send
    from comfy_gpu_offload.comfyui.wire.control_data import KEY

    control = given(nets[0], sides.remote.model)
    call = X.clone(), TIMES * 1000, CONTEXT.clone()
    data, size_bytes = control_to_send(control, torch.float32, call, {})
    assert size_bytes == 0
    assert data[KEY]["x"] is call[0]
    assert data[KEY]["context"] is call[2]
    half, _ = control_to_send(replace(control, dtype=torch.float16), torch.float32, call, {})
    assert half[KEY]["x"].dtype is torch.float16
    half, _ = control_to_send(replace(control, dtype=None), torch.float16, call, {})
    assert half[KEY]["x"].dtype is torch.float16


def test_outputs_are_rounded_only_where_this_machine_does_not_compute_in_the_models_dtype(sides: Sides) -> None:
    import comfy.model_management

    from comfy_gpu_offload.comfyui.client.control_payload import control_to_send

    control = {"input": [], "middle": [], "output": [torch.ones(1, 4, 2, 2)]}
    whole, size_bytes = control_to_send(control, torch.float32, (), {})
    assert (whole["output"][0].dtype, size_bytes) == (torch.float32, 64)
    half, size_bytes = control_to_send(control, torch.bfloat16, (), {})
    assert (half["output"][0].dtype, size_bytes) == (torch.bfloat16, 32)
    ordinary = comfy.model_management.should_use_fp16
    comfy.model_management.should_use_fp16 = lambda *_, **__: True
    try:
        assert control_to_send(control, torch.float16, (), {})[0]["output"][0].dtype is torch.float32
    finally:
        comfy.model_management.should_use_fp16 = ordinary


BAD = {
    "reads_latent": 1,
    "compute_dtype": "float32",
    "compression_ratio": 0,
    "upscale_algorithm": "magic",
    "needs_vae": None,
    "preprocessing": "magic",
    "concat_mask": 3,
    "extra_conds": [3],
}


@pytest.mark.parametrize("name", BAD)
@pytest.mark.usefixtures("comfy_stand_in")
def test_a_malformed_description_is_refused(name: str) -> None:
    from comfy_gpu_offload.comfyui.client.remote_control_net import ControlNetFacts

    with pytest.raises(MessageError, match=f"no valid {name}"):
        ControlNetFacts.of({"control_net": GOOD | {name: BAD[name]}})


@pytest.mark.parametrize("details", [None, {}, {"control_net": {}}, {"control_net": GOOD | {"more": 1}}], ids=str)
@pytest.mark.usefixtures("comfy_stand_in")
def test_no_description_is_refused(details: Any) -> None:
    from comfy_gpu_offload.comfyui.client.remote_control_net import ControlNetFacts

    with pytest.raises(MessageError, match="not of the expected form"):
        ControlNetFacts.of(details)


def test_what_keeps_a_run_here(nets: tuple[Any, Any]) -> None:
    from comfy_gpu_offload.comfyui.client.remote_control_net import ControlNetFacts, whole_loop_obstacle

    remote, local = nets
    obstacle: Callable[..., str | None] = whole_loop_obstacle
    assert obstacle(None, {}) is None
    assert obstacle(remote, {"area": (1, 1)}) is None
    assert "runs here" in (obstacle(local, {}) or "")
    remote.set_previous_controlnet(local)
    assert "runs here" in (obstacle(remote, {}) or "")
    remote.set_previous_controlnet(None)
    remote.extra_hooks = object()
    assert obstacle(remote, {}) == "hooks on a ControlNet"
    remote.extra_hooks, remote.facts = None, ControlNetFacts.of({"control_net": GOOD | {"needs_vae": True}})
    assert obstacle(remote, {}) is None
    assert "an area together with" in (obstacle(remote, {"area": (1, 1)}) or "")


def test_a_runs_table_has_each_one_once_after_those_before_it(nets: tuple[Any, Any]) -> None:
    from comfy_gpu_offload.comfyui.client.remote_control_net import ControlTable

    first, _ = nets
    second = first.copy()
    second.set_previous_controlnet(first)
    second.timestep_percent_range = (0.25, 0.5)
    table = ControlTable(X)
    assert [table.place(second), table.place(first), table.place(second)] == [1, 0, 1]
    assert [(entry["start"], entry["end"], entry["previous"]) for entry in table.entries] == [
        (0.0, 1.0, None),
        (0.25, 0.5, 0),
    ]
