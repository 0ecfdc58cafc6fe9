"""Hooks on a remote model's weights (LoRA schedules): equal to local bit for bit."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import Any

import pytest

from .harness.checkouts import Checkout
from .harness.comparison import assert_identical
from .harness.fixtures import run_script
from .harness.proxy import Proxy
from .harness.site import ComfyUI
from .harness.workflow import MMDIT, UNET, Link, Model, Sampling, Scene, Workflow
from .test_control_nets import Applying, Load, assert_stock, control_lora, one

pytestmark = pytest.mark.comfyui

Found = dict[str, Any]
DTYPES = ("float32", "bfloat16", "float16", "float8_e4m3fn", "float8_e5m2")
# What a call may send beyond the same call without hooks.
MORE_BYTES = 200


@pytest.fixture(scope="session")
def found(checkout: Checkout, python: Any, models_yaml: Any) -> Found:
    """Return the findings of scripts/jobs/run_hooks.py."""
    output = run_script(python, "jobs/run_hooks.py", checkout.root, models_yaml.parent)
    found: Found = json.loads(output.splitlines()[-1])
    return found


@pytest.mark.each_release
@pytest.mark.parametrize("dtype", DTYPES)
def test_every_way_to_use_hooks_gives_what_it_gives_here(found: Found, dtype: str) -> None:
    runs = found["ways"][dtype]
    assert len(runs) == (17 if dtype == "float32" else 5)
    assert not [name for name, run in runs.items() if not run["same"]]
    assert all(run["finite"] for run in runs.values())
    assert len({tuple(run["first"]) for run in runs.values()}) == len(runs)


@pytest.mark.parametrize("dtype", DTYPES)
def test_no_weight_is_computed_more_often_than_comfyui_does(found: Found, dtype: str) -> None:
    for name, run in found["ways"][dtype].items():
        assert run["there"]["computed"] <= run["here"]["computed"], name
        assert (run["here"]["computed"] > 0) == (name != "without"), name
    regions = found["ways"][dtype]["two regions with keyframes"]
    assert regions["there"]["kept"] >= regions["here"]["kept"] > 0


@pytest.mark.parametrize("name", ["keyframes", "two regions with keyframes", "interpolated", "two in one group"])
def test_another_strength_is_a_few_numbers(found: Found, name: str) -> None:
    runs = found["ways"]["float32"]
    # The largest call without hooks sends a latent; its first run sent the conditioning too.
    plain = max(runs["without"]["bytes"][1:])
    assert max(runs[name]["bytes"][3:]) < plain + MORE_BYTES


def test_what_else_runs_between_a_runs_calls_sees_no_hooks(found: Found) -> None:
    assert found["between"] == {
        "plain": True,
        "whole loop": True,
        "patched": True,
        "merged into another": True,
        "with hooks of its own": True,
        "the run": True,
        "hooks were on": True,
    }


@pytest.mark.parametrize(
    ("end", "said"),
    [
        ("interrupted", "InterruptProcessingException"),
        ("failing", "ModelFailedError: .*no room"),
        ("cancelled", "CallCancelledError"),
    ],
)
def test_a_run_that_ends_early_leaves_nothing_behind(found: Found, end: str, said: str) -> None:
    ended = found["ended"][end]
    assert re.match(said, ended["said"]), ended["said"]
    assert ended["hooked again"]
    assert ended["plain"]
    assert ended["left"] == {"groups": 0, "changed": 0, "kept": 0}


def test_what_is_kept_makes_room_where_memory_runs_out(found: Found) -> None:
    assert "too little memory" in found["out_of_memory"]["said"]
    assert found["out_of_memory"]["kept"] == 0
    assert found["out_of_memory"]["again"]


@pytest.mark.parametrize(
    ("hook", "said"),
    [
        ("a LoRA for another model", r"do not fit this model's weights .*\(Create Hook LoRA"),
        ("a strength that is none", "keyframe whose strength is no number"),
        ("an object patch", "kind ObjectPatchHook, which changes the network"),
        ("an injection", "kind InjectionsHook, which changes the network"),
        ("code for the network", "attn1_patch"),
    ],
)
def test_hooks_that_cannot_travel_are_refused_by_name_before_the_first_call(
    found: Found, hook: str, said: str
) -> None:
    refused = found["refused"][hook]
    assert refused["said"].startswith("UnsupportedPatchError")
    assert re.search(said, refused["said"]), refused["said"]
    assert refused["calls"] == 0


def test_a_strength_that_cannot_travel_is_refused_of_a_copy_too(found: Found) -> None:
    # ComfyUI registers one of two copies of a hook: the other is read when its turn comes.
    refused = found["refused"]["a copy's strength that is none"]
    assert "keyframe whose strength is no number" in refused["said"]
    assert refused["calls"] == 1


@pytest.mark.parametrize(("scope", "calls"), [("all_conditioning", 4), ("hooked_only", 2)])
def test_hooks_that_put_a_wrapper_round_the_network_work(found: Found, scope: str, calls: int) -> None:
    assert found["options"][scope] == {"same": True, "here": calls, "there": calls}


def test_a_device_without_room_for_the_weights_gives_what_such_a_one_gives_here(found: Found) -> None:
    runs = found["without_room"]
    assert len(runs) == 4
    for name, run in runs.items():
        assert run["same"], name
        assert run["finite"], name
        assert run["there"]["computed"] <= run["here"]["computed"], name
    assert len({tuple(run["first"]) for run in runs.values()}) == len(runs)


@pytest.mark.each_release
def test_weights_with_a_scale_are_what_comfyui_gives_where_it_keeps_none(found: Found) -> None:
    scaled = found["scaled"]
    assert scaled["plain"]
    if scaled["said"] != "nothing":  # of releases that cannot do it themselves
        assert re.search("cannot put hooks on quantised weights, as this model's are", scaled["said"])
    else:
        assert scaled["same"] == [True, True]


@pytest.mark.parametrize(
    ("hooks", "said"),
    [
        ("wrong shapes", "BadPatchesError: .*do not fit this model's weights"),
        ("missing tensor", "BadPatchesError: .*was not uploaded"),
        ("unknown kind", "BadPatchesError: .*'Popen', which is not known"),
        ("a merge", "BadPatchesError: .*a model that is not listed"),
        ("no such strength", "BadPatchesError: .*name a strength that is not there"),
        ("a right one", "nothing"),
    ],
)
def test_hooks_that_are_wrong_are_refused_by_the_worker_and_leave_the_model_as_it_was(
    found: Found, hooks: str, said: str
) -> None:
    assert re.match(said, found["malformed"][hooks]["said"]), found["malformed"][hooks]
    assert found["malformed"][hooks]["same"]
    assert found["malformed"]["mattered"]


def hooked(workflow: Workflow, conditioning: Link, lora: str, strength: float = 0.8) -> Link:
    """Add hooks by the stock nodes, with another strength from the half of a run on."""
    hooks = workflow.add("CreateHookLoraModelOnly", lora_name=f"{lora}.safetensors", strength_model=strength)
    first = workflow.add("CreateHookKeyframe", strength_mult=1.0, start_percent=0.0)
    second = workflow.add("CreateHookKeyframe", strength_mult=0.3, start_percent=0.5, prev_hook_kf=first)
    scheduled = workflow.add("SetHookKeyframes", hooks=hooks, hook_kf=second)
    return workflow.add(
        "ConditioningSetProperties",
        cond_NEW=conditioning,
        strength=1.0,
        set_cond_area="default",
        hooks=scheduled,
    )


def test_stock_nodes_and_every_sampler(comfyui: ComfyUI, listed: Callable[[Model], str], proxy: Proxy) -> None:
    scene = Scene.of(MMDIT)
    workflow, sampling = scene.workflow, Sampling(seed=701, steps=4)
    scene.sample("KSampler", workflow.local(MMDIT), sampling, "unhooked")
    scene.positive = hooked(workflow, scene.positive, "kind-lora")
    models = {"stock": workflow.local(MMDIT), "ours": workflow.remote(listed(MMDIT))}
    for side, model in models.items():
        scene.sample("KSampler", model, sampling, f"{side}-sampler")
        guider = workflow.add(
            "CFGGuider", model=model, positive=scene.positive, negative=scene.negative, cfg=sampling.cfg
        )
        noise = workflow.add("RandomNoise", noise_seed=sampling.seed)
        sampler = workflow.add("KSamplerSelect", sampler_name="euler")
        sigmas = workflow.add("BasicScheduler", model=model, scheduler="normal", steps=4, denoise=1.0)
        custom = workflow.add(
            "SamplerCustomAdvanced",
            noise=noise,
            guider=guider,
            sampler=sampler,
            sigmas=sigmas,
            latent_image=scene.latent,
        )
        workflow.save(custom, f"{side}-custom")
    # Only each step can have hooks: `auto` takes that.
    scene.sample("RemoteSampler", models["ours"], sampling, "ours-auto", offload="auto")
    comfyui.run(workflow.graph)
    stock = comfyui.saved("stock-sampler")
    assert_identical(stock, comfyui.saved("ours-sampler"))
    assert_identical(stock, comfyui.saved("ours-auto"))
    assert_identical(comfyui.saved("stock-custom"), comfyui.saved("ours-custom"))
    assert stock.isfinite().all()
    assert not stock.allclose(comfyui.saved("unhooked"), atol=1e-2)
    assert proxy.exchanges("sample") == []


def test_a_lora_crosses_once(comfyui: ComfyUI, listed: Callable[[Model], str], proxy: Proxy) -> None:
    def uploaded(seed: int, strength: float) -> int:
        scene = Scene.of(MMDIT, seed=710)
        scene.positive = hooked(scene.workflow, scene.positive, "kind-loha", strength)
        remote = scene.workflow.remote(listed(MMDIT))
        proxy.forget()
        scene.sample("KSampler", remote, Sampling(seed=seed, steps=4), f"{seed}")
        comfyui.run(scene.workflow.graph)
        return sum(exchange.up_bytes for exchange in proxy.exchanges("hello"))

    uploaded(711, 1.0)
    assert uploaded(712, 0.7) < 2_000  # handshakes


def test_a_whole_loop_is_refused_by_name(comfyui: ComfyUI, listed: Callable[[Model], str], proxy: Proxy) -> None:
    scene = Scene.of(MMDIT)
    scene.positive = hooked(scene.workflow, scene.positive, "kind-lora")
    remote = scene.workflow.remote(listed(MMDIT))
    scene.sample("RemoteSampler", remote, Sampling(seed=720), "refused", offload="whole loop")
    outcome = comfyui.api.run(scene.workflow.graph)
    assert outcome.error is not None, outcome.summary
    assert outcome.error["exception_type"].endswith("UnsupportedRunError"), outcome.summary
    assert "hooks (Cond Pair Set Props, Create Hook LoRA) in the positive conditioning" in outcome.error_message
    assert proxy.exchanges("sample") == []


def of_a_unet(applying: Applying) -> Applying:
    """Add hooks on a weight that a Control-LoRA shares with the model, too."""

    def applied(scene: Scene, load: Load) -> None:
        applying(scene, load)
        scene.positive = hooked(scene.workflow, scene.positive, "locon", 1.5)

    return applied


@pytest.mark.parametrize("applying", [one, control_lora], ids=["ControlNet", "Control-LoRA"])
def test_with_a_control_net_at_the_worker(
    comfyui: ComfyUI, listed: Callable[[Model], str], applying: Applying
) -> None:
    sampling, name = Sampling(seed=731, steps=4), listed(UNET)
    ours = of_a_unet(applying)
    expected = assert_stock(comfyui, name, (ours, ours), sampling, ("each step",))
    unhooked = assert_stock(comfyui, name, (applying, applying), sampling, ("each step",))
    assert not expected.allclose(unhooked, atol=1e-2)
