"""Chains of ControlNets on a stand-in for ComfyUI: their order, their copies, and errors that name the net."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from tests.support.comfy_stand_in.fixtures import StandIn

from comfy_gpu_offload.backends.base import (
    BackendError,
    ModelFileError,
    ModelMismatchError,
    ModelNotFoundError,
    ModelRunError,
    ModuleCall,
    OutOfMemoryError,
)
from comfy_gpu_offload.comfyui.wire.control_data import KEY, PREFIX
from comfy_gpu_offload.protocol.messages import Autocast, ModelRef

MODEL = ModelRef(name="one.safetensors")
LATENT = torch.arange(72.0).reshape(2, 4, 3, 3) / 10
PICTURE = torch.full((1, 3, 8, 8), 51, dtype=torch.uint8)
# What the stand-in's ControlNet makes of these, at scale and strength 1.
MEAN = float(PICTURE.float().mean() / 255 + LATENT.mean())


@pytest.fixture
def nets(comfy_stand_in: StandIn) -> StandIn:
    comfy_stand_in.write_model(MODEL.name)
    comfy_stand_in.write_control_net("edges.safetensors", 1.0)
    comfy_stand_in.write_control_net("depth.safetensors", 10.0)
    return comfy_stand_in


def described(backend: Any, name: str = "edges.safetensors") -> Any:
    return backend.describe(ModelRef(name=PREFIX + name))


def applied(backend: Any, name: str = "edges.safetensors", **changes: Any) -> dict[str, Any]:
    """Return the fields of a ControlNet in a call."""
    fields = {
        "net": name,
        "fingerprint": described(backend, name).description.fingerprint,
        "strength": 1.0,
        "control_type": None,
        "hint": PICTURE,
        "encoded": False,
        "masks": [],
        "x": LATENT,
        "timestep": torch.ones(2),
        "context": None,
        "conds": {},
        "chunks": 1,
        "previous": None,
    }
    return {**fields, **changes}


def called(backend: Any, control: Any, **further: Any) -> torch.Tensor:
    fingerprint = backend.describe(MODEL).description.fingerprint
    args = (LATENT, torch.ones(2))
    return backend.forward(ModuleCall(MODEL, fingerprint, args, {"control": control}, **further)).result


def added(backend: Any, control: Any) -> torch.Tensor:
    """Return what a call with that `control` gives beyond one without."""
    return called(backend, control) - called(backend, None)


def assert_adds(backend: Any, control: Any, value: float) -> None:
    assert torch.allclose(added(backend, control), torch.full_like(LATENT, value), atol=1e-4)


def test_a_control_net_is_described(nets: StandIn, backend: Any) -> None:
    assert described(backend).details == {
        "control_net": {
            "reads_latent": True,
            "compute_dtype": torch.float32,
            "compression_ratio": 8,
            "upscale_algorithm": "nearest-exact",
            "needs_vae": False,
            "preprocessing": "none",
            "concat_mask": False,
            "extra_conds": ["y"],
        }
    }
    nets.write("controlnet", "adapter.safetensors", {"adapter.scale": torch.ones(1)})
    assert described(backend, "adapter.safetensors").details["control_net"]["reads_latent"] is False


def test_one_whose_preparation_of_pictures_is_not_known_is_refused(nets: StandIn, backend: Any) -> None:
    described(backend)
    loaded, _ = backend.pool.load(ModelRef(name=f"{PREFIX}edges.safetensors"))
    loaded.module.net.preprocess_image = lambda image: 1.0 - image
    assert described(backend).details["control_net"]["preprocessing"] == "depth"
    loaded.module.net.preprocess_image = lambda image: image + 7
    with pytest.raises(ModelRunError, match="prepares its picture in a way that is not known"):
        described(backend)


def test_residuals_are_the_nets_times_the_strength(nets: StandIn, backend: Any) -> None:
    assert_adds(backend, {KEY: applied(backend)}, MEAN)
    assert_adds(backend, {KEY: applied(backend, "depth.safetensors", strength=0.5)}, 5 * MEAN)
    # The copy for that picture is used again.
    assert_adds(backend, {KEY: applied(backend, strength=0.25)}, MEAN / 4)


def test_a_chain_is_computed_from_its_end(nets: StandIn, backend: Any) -> None:
    """The stand-in adds what is before a net to the first entry alone, so the order shows in what is left over."""
    import comfy.controlnet

    order: list[float] = []
    get_control = comfy.controlnet.ControlNet.get_control

    def noting(self: Any, *args: Any) -> Any:
        made = get_control(self, *args)
        order.append(float(self.control_model.scale))
        return made

    comfy.controlnet.ControlNet.get_control = noting
    try:
        given = {"input": [], "middle": [], "output": [torch.full_like(LATENT, 3.0), torch.full_like(LATENT, 5.0)]}
        first = {KEY: applied(backend, "depth.safetensors", previous=given)}
        assert_adds(backend, {KEY: applied(backend, previous=first)}, 11 * MEAN + 8)
    finally:
        comfy.controlnet.ControlNet.get_control = get_control
    assert order == [10.0, 1.0]


def test_residuals_of_the_client_reach_the_network_as_they_are(nets: StandIn, backend: Any) -> None:
    part = torch.full((1, 4, 3, 3), 3.0)
    control = {"input": [], "middle": [], "output": [{"copies": 2, "of": part}]}
    assert_adds(backend, control, 3.0)


def test_nets_are_placed_with_the_model_and_their_room_is_asked_for(nets: StandIn, backend: Any) -> None:
    import comfy.model_management as management

    called(backend, {KEY: applied(backend, previous={KEY: applied(backend, "depth.safetensors")})})
    patchers, required = management.placed[-1]
    loaded = [
        backend.pool.load(ref)[0]
        for ref in (
            MODEL,
            ModelRef(name=f"{PREFIX}depth.safetensors"),
            ModelRef(name=f"{PREFIX}edges.safetensors"),
        )
    ]
    assert patchers == [each.patcher for each in loaded]
    assert required == 2000 + 2 * 500


def test_a_net_leaves_nothing_of_a_call_behind(nets: StandIn, backend: Any) -> None:
    control = {KEY: applied(backend, control_type=[3])}
    first = called(backend, control)
    net = backend.pool.load(ModelRef(name=f"{PREFIX}edges.safetensors"))[0].module
    (prepared,) = net.prepared
    assert (prepared.net.previous_controlnet, prepared.net.extra_args) == (None, {})
    assert torch.equal(called(backend, control), first)
    assert torch.equal(called(backend, {KEY: applied(backend)}), first)


def test_the_last_four_pictures_are_kept(nets: StandIn, backend: Any) -> None:
    net = ModelRef(name=f"{PREFIX}edges.safetensors")
    for value in (1, 2, 3, 4, 5, 1):
        called(backend, {KEY: applied(backend, hint=torch.full_like(PICTURE, value))})
    kept = [int(each.applied.hint[0, 0, 0, 0]) for each in backend.pool.load(net)[0].module.prepared]
    assert kept == [3, 4, 5, 1]
    copies = [each.net for each in backend.pool.load(net)[0].module.prepared]
    called(backend, {KEY: applied(backend, hint=torch.full_like(PICTURE, 3))})
    assert backend.pool.load(net)[0].module.prepared[-1].net is copies[0]
    # Another patched model, or another size of batch, is not what the copy was made for.
    called(backend, {KEY: applied(backend, hint=torch.full_like(PICTURE, 3), chunks=2)})
    assert all(each.net is not copies[1] for each in backend.pool.load(net)[0].module.prepared)


def test_a_net_that_leaves_memory_lets_go_of_its_pictures(nets: StandIn, backend: Any) -> None:
    called(backend, {KEY: applied(backend)})
    loaded, _ = backend.pool.load(ModelRef(name=f"{PREFIX}edges.safetensors"))
    (prepared,) = loaded.module.prepared
    prepared.net.cond_hint = PICTURE
    backend.close()
    assert (loaded.module.prepared, prepared.net.cond_hint) == ([], None)


@pytest.mark.parametrize(
    ("changes", "error", "said"),
    [
        ({"net": "nobody.safetensors"}, ModelNotFoundError, "There is no ControlNet 'nobody"),
        ({"net": "../diffusion_models/one.safetensors"}, ModelNotFoundError, "There is no ControlNet"),
        ({"net": "n" * 250}, ModelRunError, "no proper net"),
        ({"fingerprint": "f" * 16}, ModelMismatchError, "edges.safetensors' has changed"),
        ({"x": LATENT[..., :2]}, ModelRunError, "not of the model's size"),
        ({"x": None}, ModelRunError, "latent is missing"),
        ({"chunks": 3}, ModelRunError, "not of the model's size"),
        ({"conds": {"gate": torch.zeros(2)}}, ModelRunError, "takes no 'gate'"),
        ({"encoded": True}, ModelRunError, "not of the form that this one takes"),
        ({"strength": float("nan")}, ModelRunError, "no proper strength"),
        ({"context": torch.zeros(2, 3, 101)}, ModelRunError, "'edges.safetensors' raised RuntimeError: mat1"),
    ],
)
def test_what_is_wrong_is_refused_by_name(
    nets: StandIn, backend: Any, changes: dict[str, Any], error: type[BackendError], said: str
) -> None:
    before = called(backend, {KEY: applied(backend)})
    with pytest.raises(error, match=said):
        called(backend, {KEY: applied(backend, **changes)})
    assert torch.equal(called(backend, {KEY: applied(backend)}), before)


def test_a_chain_is_bounded(nets: StandIn, backend: Any) -> None:
    control: Any = None
    for _ in range(17):
        control = {KEY: applied(backend, previous=control)}
    with pytest.raises(ModelRunError, match="over 16 ControlNets"):
        called(backend, control)


def test_autocast_is_refused_with_a_net_at_the_worker(nets: StandIn, backend: Any) -> None:
    with pytest.raises(ModelRunError, match="not computed under"):
        called(
            backend,
            {KEY: applied(backend)},
            autocast=Autocast(dtype="bfloat16", caches=True, gradients="inference"),
        )


def test_memory_that_runs_out_in_a_net_is_not_taken_for_its_fault(nets: StandIn, backend: Any) -> None:
    import comfy.controlnet

    control = {KEY: applied(backend)}
    get_control = comfy.controlnet.ControlNet.get_control

    def fails(*_: Any) -> None:
        raise torch.OutOfMemoryError("no room")

    comfy.controlnet.ControlNet.get_control = fails
    try:
        with pytest.raises(OutOfMemoryError, match=r"one\.safetensors"):
            called(backend, control)
    finally:
        comfy.controlnet.ControlNet.get_control = get_control
    called(backend, control)


def test_a_file_of_differences_is_refused_by_its_path(nets: StandIn, backend: Any) -> None:
    key = "control_model.zero_convs.0.0.weight"
    path = nets.write("controlnet", "diff.safetensors", {"difference": torch.zeros(1), key: torch.zeros(1)})
    with pytest.raises(ModelFileError, match=f"{path} holds what a ControlNet adds"):
        described(backend, "diff.safetensors")
    nets.write("controlnet", "none.safetensors", {"words": torch.zeros(1)})
    with pytest.raises(ModelFileError, match=r"There is no ControlNet in .*none\.safetensors"):
        described(backend, "none.safetensors")
