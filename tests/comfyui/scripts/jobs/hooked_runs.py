"""A worker's weights when a run has hooks: between its calls, when it fails, and after it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import comfy.hooks
import comfy.model_management
import comfy.model_patcher
import comfy.sample
import comfy.samplers
import torch
from behaviour import forward_once
from comfy_extras import nodes_hooks, nodes_model_merging
from low_memory import room_for
from safetensors.torch import load_file, save_file
from sessions import Pair, sampled, sampled_whole
from sides import BACKEND, FOLDER, MMDIT, SIDES, UNET, Case, case, condition, noise, settings
from weight_dtypes import loras
from weight_hooks import OTHER, Hooked, by, case_of, compare, every, hook, keyframes, one_side, two_regions

from comfy_gpu_offload.backends.base import BackendError, HookSet, PatchSet
from comfy_gpu_offload.client.session import Session
from comfy_gpu_offload.comfyui.client.patcher import remote_patcher
from comfy_gpu_offload.errors import OffloadError
from comfy_gpu_offload.io.digests import digest
from comfy_gpu_offload.protocol.messages import ModelRef
from comfy_gpu_offload.server.handler import Handler
from comfy_gpu_offload.transport.loopback import LoopbackTransport

_REGIONS = "two regions with keyframes"


def stepped(model: Any, this: Case, after_step: Callable[[int], None]) -> torch.Tensor:
    """Sample as `sampled` does, and call `after` at each step."""
    fields = settings(this.fields)
    latent = this.latent["samples"]
    with torch.inference_mode():
        samples: torch.Tensor = comfy.sample.sample(
            model,
            comfy.sample.prepare_noise(latent, fields["seed"]),
            fields["steps"],
            fields["cfg"],
            fields["sampler"],
            fields["scheduler"],
            this.positive,
            this.negative,
            latent,
            callback=lambda step, *_: after_step(step),
            disable_pbar=True,
            seed=fields["seed"],
        )
    return samples


def said_by(run: Callable[[], Any]) -> str:
    """Return the error of a run."""
    try:
        run()
    except (OffloadError, comfy.model_management.InterruptProcessingException) as error:
        return f"{type(error).__name__}: {error}"
    return "nothing"


def left_at_worker() -> dict[str, int]:
    """Return the number of groups, changed weights and kept weights of hooks at the worker's model."""
    loaded = BACKEND.pool.load(ModelRef(name=MMDIT.file))[0]
    patchers = [loaded.patcher, *(clone.patcher for clone in loaded._clones.values())]
    return {
        "groups": len(loaded.hooks._groups),
        "changed": len(loaded.patcher.hook_backup),
        "kept": sum(len(patcher.cached_hook_patches) + len(patcher.hook_patches) for patcher in patchers),
    }


def between() -> dict[str, bool]:
    """Make other calls on the same weights after each step of a run with hooks, and compare all."""
    pair, plain = Pair.of(MMDIT), case(MMDIT, steps=1)
    # The last call of a step has hooks on.
    hooked = Hooked(
        lambda: (
            one_side(hook("kind-lora", 0.8))[0],
            one_side(hook("kind-lora-2", 0.6, keyframes((0.0, 0.2), (0.5, 1.3))))[0],
        )
    )
    elsewhere = remote_patcher(Session(LoopbackTransport(Handler(BACKEND))).model(MMDIT.file))
    merge = nodes_model_merging.ModelMergeSimple()
    other = Pair.of(OTHER)

    def merged(side: str) -> Any:
        return merge.merge(getattr(other, side), getattr(pair, side), 0.3)[0]

    patch = loras(("kind-dora", 0.8))
    ways: dict[str, tuple[Callable[[], torch.Tensor], Callable[[], torch.Tensor]]] = {
        "plain": (lambda: sampled(pair.stock, plain), lambda: sampled(elsewhere, plain)),
        "whole loop": (lambda: sampled(pair.stock, plain), lambda: sampled_whole(elsewhere, plain)),
        "patched": (lambda: sampled(patch(pair.stock), plain), lambda: sampled(patch(elsewhere), plain)),
        "merged into another": (lambda: sampled(merged("stock"), plain), lambda: sampled(merged("remote"), plain)),
        "with hooks of its own": (
            lambda: sampled(pair.stock, case_of(every()["late"])),
            lambda: sampled(elsewhere, case_of(every()["late"])),
        ),
    }
    expected = {name: here() for name, (here, _) in ways.items()}
    whole = sampled(pair.stock, case_of(hooked))
    # A merge that has been made before holds the weights that hooks then change.
    sampled(merged("remote"), plain)
    sampled(other.remote, plain)
    same: dict[str, bool] = {}
    on: list[bool] = []

    def others(step: int) -> None:
        if step < len(ways):
            name, (_, there) = list(ways.items())[step]
            on.append(left_at_worker()["changed"] > 0)
            same[name] = torch.equal(expected[name], there())

    # Of another session, since a model's clones share what is said of hooks with each call.
    own = remote_patcher(Session(LoopbackTransport(Handler(BACKEND))).model(MMDIT.file))
    found = stepped(own, case_of(hooked), others)
    return {**same, "the run": torch.equal(whole, found), "hooks were on": all(on)}


def ended() -> dict[str, Any]:
    """Make runs that are interrupted, that fail at the worker, that are refused there; and runs after each."""
    pair, plain = Pair.of(MMDIT), case(MMDIT, steps=2)
    hooked = every()[_REGIONS]
    expected, unhooked = sampled(pair.stock, case_of(hooked)), sampled(pair.stock, plain)

    def interrupt(step: int) -> None:
        if step == 2:
            raise comfy.model_management.InterruptProcessingException

    def interrupted() -> None:
        stepped(pair.remote, case_of(hooked), interrupt)

    def failing() -> None:
        kind = comfy.model_patcher.ModelPatcher
        own, calls = kind.patch_hook_weight_to_device, []

        def fails(*args: Any, **kwargs: Any) -> Any:
            calls.append(1)
            if len(calls) == 2:
                raise RuntimeError("no room")
            return own(*args, **kwargs)

        kind.patch_hook_weight_to_device = fails
        try:
            sampled(pair.remote, case_of(hooked))
        finally:
            kind.patch_hook_weight_to_device = own

    def cancelled() -> None:
        network = BACKEND.pool.load(ModelRef(name=MMDIT.file))[0].patcher.model.diffusion_model
        handle = network.register_forward_pre_hook(lambda *_: BACKEND.interrupt(), prepend=True)
        try:
            sampled(pair.remote, case_of(hooked))
        finally:
            handle.remove()

    found = {}
    for name, run in (("interrupted", interrupted), ("failing", failing), ("cancelled", cancelled)):
        found[name] = {
            "said": said_by(run),
            "hooked again": torch.equal(expected, sampled(pair.remote, case_of(hooked))),
        }
        said_by(run)
        found[name] |= {"plain": torch.equal(unhooked, sampled(pair.remote, plain)), "left": left_at_worker()}
    return found


def out_of_memory() -> dict[str, Any]:
    """Make a call for which the device has no room: kept weights are freed, and the next run is right."""
    pair, hooked = Pair.of(MMDIT), every()[_REGIONS]
    expected = sampled(pair.stock, case_of(hooked))
    network = BACKEND.pool.load(ModelRef(name=MMDIT.file))[0].patcher.model.diffusion_model
    calls: list[int] = []

    def fails(*_: Any) -> None:
        calls.append(1)
        if len(calls) == 4:
            raise torch.OutOfMemoryError("no room")

    handle = network.register_forward_pre_hook(fails)
    try:
        said = said_by(lambda: sampled(pair.remote, case_of(hooked)))
    finally:
        handle.remove()
    patcher = BACKEND.pool.load(ModelRef(name=MMDIT.file))[0].patcher
    kept = len(patcher.cached_hook_patches)
    return {"said": said, "kept": kept, "again": torch.equal(expected, sampled(pair.remote, case_of(hooked)))}


def _hook_of(kind: type[Any], **fields: Any) -> Any:
    group = comfy.hooks.HookGroup()
    group.add(kind(**fields))
    return group


def _registered(model: Any) -> Any:
    """Return a clone of the model as a node leaves it that handles kinds of hooks which ComfyUI does not."""
    changed = model.clone()

    def register(_: Any, hooks: Any, __: Any, ___: Any, registered: Any) -> None:
        for each in hooks.hooks:
            registered.add(each)

    changed.add_callback_with_key("on_register_all_hook_patches", "test", register)
    return changed


def refused() -> dict[str, Any]:
    """Return the errors of hooks that cannot travel, and the number of calls before each."""
    pair = Pair.of(MMDIT)
    odd = hook("kind-lora", 1.0)
    odd.hooks[0].hook_keyframe.add(comfy.hooks.HookKeyframe(strength=torch.ones(2)))
    copies = [odd.clone(), odd.clone()]
    for copy, strength in zip(copies, (torch.tensor(0.5), torch.tensor(0.5, dtype=torch.float64)), strict=True):
        copy.set_keyframes_on_hooks(keyframes((0.0, strength)))
    patches = {"patches": {"attn1_patch": [lambda *_: None]}}
    ways: dict[str, Hooked] = {
        "a LoRA for another model": Hooked(lambda: one_side(hook("misfit", 1.0))),
        "a strength that is none": Hooked(lambda: one_side(odd)),
        "a copy's strength that is none": Hooked(lambda: two_regions(*copies)),
        "an object patch": Hooked(lambda: one_side(_hook_of(comfy.hooks.ObjectPatchHook)), _registered),
        "an injection": Hooked(lambda: one_side(_hook_of(comfy.hooks.InjectionsHook)), _registered),
        "code for the network": Hooked(
            lambda: one_side(_hook_of(comfy.hooks.TransformerOptionsHook, transformers_dict=patches))
        ),
    }
    found = {}
    for name, hooked in ways.items():
        before = pair.remote.remote.calls
        said = said_by(lambda hooked=hooked: sampled(hooked.patch(pair.remote), case_of(hooked)))  # type: ignore[misc]
        found[name] = {"said": said, "calls": pair.remote.remote.calls - before}
    return found


def options() -> dict[str, Any]:
    """Compare hooks that put a wrapper round the network, for all conditioning and for their own alone."""
    pair = Pair.of(UNET)
    found = {}
    for scope in (comfy.hooks.EnumHookScope.AllConditioning, comfy.hooks.EnumHookScope.HookedOnly):
        calls: list[int] = []

        def wrapper(executor: Any, *args: Any, calls: list[int] = calls, **kwargs: Any) -> Any:
            calls.append(1)
            return executor(*args, **kwargs) * 0.9

        def this(wrapper: Any = wrapper, scope: Any = scope) -> Case:
            wrappers = {"wrappers": {"diffusion_model": {"test": [wrapper]}}}
            hooks = _hook_of(comfy.hooks.TransformerOptionsHook, transformers_dict=wrappers, hook_scope=scope)
            positive = by(nodes_hooks.SetModelHooksOnCond, conditioning=[condition(UNET, 10)], hooks=hooks)
            latent = {"samples": torch.zeros(UNET.latent)}
            return Case(UNET, latent, positive, [condition(UNET, 20)], fields={"steps": 2})

        expected, here = sampled(pair.stock, this()), len(calls)
        same = torch.equal(expected, sampled(pair.remote, this()))
        found[scope.value] = {"same": same, "here": here, "there": len(calls) - here}
    return found


def without_room() -> dict[str, Any]:
    """Compare on a device that holds none of the weights."""
    BACKEND.close()
    comfy.model_management.unload_all_models()
    with room_for(1), torch.inference_mode():
        pair = Pair.of(MMDIT)
        return {name: compare(pair, every()[name]) for name in ("without", "keyframes", _REGIONS, "over a LoRA")}


@contextmanager
def _never_kept() -> Iterator[None]:
    """Make ComfyUI compute hooked weights anew each time, as it does in a run with one group of hooks."""
    counted = comfy.samplers.get_total_hook_groups_in_conds
    comfy.samplers.get_total_hook_groups_in_conds = lambda _: 1
    try:
        yield
    finally:
        comfy.samplers.get_total_hook_groups_in_conds = counted


def _plain_is_same(pair: Pair) -> bool:
    plain = case(MMDIT, steps=1)
    return torch.equal(sampled(pair.stock, plain), sampled(pair.remote, plain))


def scaled() -> dict[str, Any]:
    """Compare weights in fp8 with a scale, which ComfyUI forgets of weights that it keeps."""
    weights = load_file(FOLDER / "diffusion_models" / MMDIT.file)
    made: dict[str, torch.Tensor] = {"scaled_fp8": torch.zeros(0, dtype=torch.float8_e4m3fn)}
    for key, weight in weights.items():
        made[key] = weight
        if key.startswith("joint_blocks.") and key.endswith(".weight") and weight.dim() == 2:
            scale = weight.abs().max() / 448
            made[key] = (weight / scale).to(torch.float8_e4m3fn)
            made[key.removesuffix("weight") + "scale_weight"] = scale
    kind = replace(MMDIT, file="scaled.safetensors")
    save_file(made, FOLDER / "diffusion_models" / kind.file)
    pair = Pair.of(kind)
    this = every()["two regions"]
    said = said_by(lambda: sampled(pair.remote, case_of(this)))
    if said != "nothing":
        return {"said": said, "plain": _plain_is_same(pair)}
    found = [sampled(pair.remote, case_of(this)) for _ in range(2)]
    with _never_kept():
        expected = sampled(pair.stock, case_of(this))
    return {"said": said, "same": [torch.equal(expected, each) for each in found], "plain": _plain_is_same(pair)}


def malformed() -> dict[str, Any]:
    """Return the worker's errors for wrong hooks, and whether calls after them give the same as before."""
    key, shape = next(
        (key, tuple(value.shape))
        for key, value in SIDES.stock(MMDIT).model.state_dict().items()
        if value.dim() == 2
    )
    right, wrong = noise(shape, 80), noise((shape[0] + 1, shape[1]), 81)
    held = {digest(tensor): tensor for tensor in (right, wrong)}
    named, misfit = held

    def hooks_of(values: list[Any], kind: str = "diff", single: tuple[int, ...] = ()) -> HookSet:
        template = {key: [[0, kind, values, None, None]]}
        name = digest(torch.tensor(list(f"{kind}{values}{single}".encode())))
        return HookSet(PatchSet(name, template, ((1.0, 1.0),), held), single, 0)

    def said(hooks: HookSet) -> str:
        try:
            forward_once(hooks=hooks)
        except BackendError as error:
            return f"{type(error).__name__}: {error}"
        return "nothing"

    before = forward_once()
    ways = {
        "wrong shapes": hooks_of([misfit, False]),
        "missing tensor": hooks_of([bytes(32), False]),
        "unknown kind": hooks_of([named], "Popen"),
        "a merge": hooks_of([0, None, []], "model"),
        "no such strength": hooks_of([named, False], single=(1,)),
        "a right one": hooks_of([named, False]),
    }
    found = {
        name: {"said": said(hooks), "same": torch.equal(before, forward_once())} for name, hooks in ways.items()
    }
    mattered = not torch.equal(before, forward_once(hooks=ways["a right one"]))
    return {**found, "mattered": mattered}


def hooked_runs() -> dict[str, Any]:
    return {
        "between": between(),
        "ended": ended(),
        "out_of_memory": out_of_memory(),
        "refused": refused(),
        "options": options(),
        "scaled": scaled(),
        "malformed": malformed(),
        "without_room": without_room(),
    }
