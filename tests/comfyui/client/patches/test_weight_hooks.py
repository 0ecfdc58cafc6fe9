"""The patches of hooks on weights go with each call, by group and at the hooks' present strengths."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from tests.comfyui.client.conftest import Sides

from comfy_gpu_offload.errors import UnsupportedPatchError

KEY = "diffusion_model.layer.weight"
X, TIMES = torch.ones(1, 4, 2, 2), torch.ones(1)


def hooked(patcher: Any, *values: float) -> tuple[Any, Any]:
    """Return a clone with a hook for each value, and the group of them."""
    import comfy.hooks

    made, group = patcher.clone(), comfy.hooks.HookGroup()
    for value in values:
        hook = comfy.hooks.WeightHook()
        made.hook_patches[hook.hook_ref] = {KEY: [(0.5, ("diff", (torch.full((4, 4), value),)), 1.0, None, None)]}
        group.add(hook)
    return made, group


def called(patcher: Any, group: Any) -> torch.Tensor:
    patcher.patch_hooks(group)
    result: torch.Tensor = patcher.model.diffusion_model(X, TIMES)
    return result


def test_hooks_are_on_in_the_calls_of_their_group_alone(sides: Sides) -> None:
    (remote, there), (local, here) = hooked(sides.remote, 1.0, 3.0), hooked(sides.local, 1.0, 3.0)
    remote.pre_run()
    plain = sides.network(X, TIMES)
    local_plain = sides.local.model.diffusion_model(X, TIMES)
    assert torch.equal(plain, local_plain)
    on = called(remote, there)
    assert torch.equal(on, called(local, here))
    assert not torch.equal(on, plain)
    assert torch.equal(called(remote, None), plain)
    remote.patch_hooks(there)
    remote.cleanup()
    assert torch.equal(sides.network(X, TIMES), plain)


def test_another_strength_is_another_number_in_the_call(sides: Sides) -> None:
    from comfy_gpu_offload.comfyui.client.patches.weight_hooks import RunHooks

    remote, group = hooked(sides.remote, 1.0)
    run = RunHooks(remote)
    whole = run.of(group)
    group.hooks[0].strength = 0.25
    quarter = run.of(group)
    assert whole.patches.ref.template == quarter.patches.ref.template
    assert (whole.patches.strengths, quarter.patches.strengths) == (((0.5, 1.0),), ((0.125, 1.0),))
    assert (whole.group, quarter.group, whole.single) == (0, 0, ())


def test_a_strength_that_is_a_tensor_is_told(sides: Sides) -> None:
    from comfy_gpu_offload.comfyui.client.patches.weight_hooks import RunHooks

    remote, group = hooked(sides.remote, 1.0, 2.0)
    group.hooks[1].strength = torch.tensor(0.5)
    made = RunHooks(remote).of(group)
    assert made.single == (1,)
    assert made.patches.strengths == ((0.5, 1.0), (0.25, 1.0))
    assert [entry[0] for entry in made.patches.template[KEY]] == [0, 1]


def test_weights_are_kept_by_the_worker_where_comfyui_would_keep_them(sides: Sides) -> None:
    import comfy.hooks

    from comfy_gpu_offload.comfyui.client.patches.weight_hooks import RunHooks

    remote, group = hooked(sides.remote, 1.0)
    run = RunHooks(remote)
    assert (run.keeps, run.without is not None, run.of(group).group) == (True, True, 0)
    assert run.of(comfy.hooks.HookGroup()) == run.without
    remote.hook_mode = comfy.hooks.EnumHookMode.MinVram
    assert (run.keeps, run.without, run.of(group).group) == (False, None, None)


def test_a_kept_group_stays_as_it_was_until_comfyui_lets_it_go(sides: Sides) -> None:
    (remote, group) = hooked(sides.remote, 1.0)
    first = called(remote, group)
    group.hooks[0].strength = 0.25
    assert torch.equal(called(remote, group), first)
    remote.cached_hook_patches.pop(group)
    assert not torch.equal(called(remote, group), first)


@pytest.mark.parametrize("strength", [float("nan"), "0.5", torch.ones(2), torch.tensor(1)], ids=str)
def test_a_strength_that_is_no_number_is_refused(sides: Sides, strength: Any) -> None:
    import comfy.hooks

    remote, group = hooked(sides.remote, 1.0)
    group.hooks[0].hook_keyframe = comfy.hooks.HookKeyframeGroup([comfy.hooks.HookKeyframe(strength)])
    with pytest.raises(UnsupportedPatchError, match="keyframe whose strength is no number"):
        remote.register_all_hook_patches(group)
    group.hooks[0].strength = strength
    with pytest.raises(UnsupportedPatchError, match="keyframe whose strength is no number"):
        remote.patch_hooks(group)


@pytest.mark.parametrize("kind", ["ObjectPatch", "Injections"])
def test_a_hook_that_changes_the_network_is_refused(sides: Sides, kind: str) -> None:
    import comfy.hooks

    group = comfy.hooks.HookGroup()
    group.add(type("OwnHook", (comfy.hooks.Hook,), {})(comfy.hooks.EnumHookType[kind]))
    with pytest.raises(UnsupportedPatchError, match=r"a hook of the kind OwnHook.*test_weight_hooks: OwnHook\)"):
        sides.remote.register_all_hook_patches(group)


@pytest.mark.parametrize("kind", ["Weight", "TransformerOptions", "AdditionalModels"])
def test_hooks_outside_of_the_network_work(sides: Sides, kind: str) -> None:
    import comfy.hooks

    group = comfy.hooks.HookGroup()
    group.add(comfy.hooks.Hook(comfy.hooks.EnumHookType[kind]))
    assert sides.remote.register_all_hook_patches(group) is group


def test_a_merge_that_a_hook_puts_on_is_refused(sides: Sides) -> None:
    remote, group = hooked(sides.remote, 1.0)
    merge = [(sides.remote.get_key_patches()[KEY][0])]
    remote.hook_patches[group.hooks[0].hook_ref] = {KEY: [(0.5, merge, 1.0, None, None)]}
    with pytest.raises(UnsupportedPatchError, match=r"a model merge that is put on by a hook.*\(Create Hook LoRA"):
        remote.pre_run()
