"""LoRA and its kin on a remote model: equal to local bit for bit, with one upload."""

from __future__ import annotations

from collections.abc import Callable
from math import prod

import pytest

from .harness.comparison import Patch, assert_identical, assert_remote_equals_local
from .harness.events import shown_while_running
from .harness.proxy import Proxy
from .harness.site import ComfyUI, Site
from .harness.workflow import MMDIT, UNET, Link, Model, Sampling, Scene, Workflow

pytestmark = pytest.mark.comfyui

KINDS = ("lora", "dora", "loha", "lokr", "oft", "boft", "glora", "diff", "set")
SMALL_BYTES = 10_000
# A handshake, and now and then an exchange of nothing, by which the session measures the link.
HANDSHAKE_BYTES = 2_000
# Of second-a and second-b: rank 4, half precision, three layers.
SECOND_BYTES = 2 * 4 * ((128 + 128) + (512 + 128) + (128 + 512))
WHOLE = "whole loop"


def lora(name: str, strength: float) -> Patch:
    def patch(workflow: Workflow, model: Link) -> Link:
        return workflow.add(
            "LoraLoaderModelOnly", model=model, lora_name=f"{name}.safetensors", strength_model=strength
        )

    return patch


def stacked(*patches: Patch) -> Patch:
    def patch(workflow: Workflow, model: Link) -> Link:
        for each in patches:
            model = each(workflow, model)
        return model

    return patch


def upload_bytes(proxy: Proxy) -> int:
    """Return the bytes of all requests but the calls themselves."""
    return sum(exchange.up_bytes for exchange in proxy.exchanges("hello"))


@pytest.mark.each_release
@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_at_two_strengths(comfyui: ComfyUI, listed: Callable[[Model], str], kind: str) -> None:
    latents = {}
    for strength in (1.0, 0.6):
        sampling = {f"{strength}": Sampling(seed=501)}
        latents |= assert_remote_equals_local(
            comfyui, Scene.of(MMDIT), listed(MMDIT), sampling, lora(f"kind-{kind}", strength)
        )
    unpatched = assert_remote_equals_local(comfyui, Scene.of(MMDIT), listed(MMDIT), {"none": Sampling(seed=501)})
    assert not (latents["1.0"] == unpatched["none"]).all()


@pytest.mark.parametrize(
    ("model", "patch"),
    [
        pytest.param(MMDIT, stacked(lora("kind-lora", 0.8), lora("kind-lora-2", -0.5)), id="two"),
        pytest.param(MMDIT, stacked(lora("kind-diff", 0.5), lora("kind-dora", 1.0)), id="two kinds"),
        pytest.param(MMDIT, lora("parts", 0.9), id="parts of weights, and a function"),
        pytest.param(MMDIT, lora("mmdit-lora", 1.0), id="float32"),
        pytest.param(UNET, lora("locon", 0.7), id="convolutions"),
    ],
)
def test_stacked_and_partial_ones(
    comfyui: ComfyUI, listed: Callable[[Model], str], model: Model, patch: Patch
) -> None:
    assert_remote_equals_local(comfyui, Scene.of(model), listed(model), {"patched": Sampling(seed=511)}, patch)


def test_with_weights_in_fp8(comfyui: ComfyUI, listed: Callable[[Model], str]) -> None:
    assert_remote_equals_local(
        comfyui,
        Scene.of(MMDIT),
        listed(MMDIT),
        {"fp8": Sampling(seed=515)},
        lora("kind-lora", 1.0),
        weight_dtype="fp8_e4m3fn",
    )


@pytest.mark.parametrize("kind", ["lora", "dora", "lokr"])
def test_whole_loop(comfyui: ComfyUI, listed: Callable[[Model], str], proxy: Proxy, kind: str) -> None:
    scene = Scene.of(MMDIT)
    patch = lora(f"kind-{kind}", 0.9)
    local = patch(scene.workflow, scene.workflow.local(MMDIT))
    remote = patch(scene.workflow, scene.workflow.remote(listed(MMDIT)))
    scene.sample("KSampler", local, Sampling(seed=521), "stock")
    scene.sample("RemoteSampler", remote, Sampling(seed=521), "whole", offload=WHOLE)
    proxy.forget()
    comfyui.run(scene.workflow.graph)
    assert_identical(comfyui.saved("stock"), comfyui.saved("whole"))
    assert (len(proxy.exchanges("sample")), len(proxy.exchanges("forward"))) == (1, 0)


def sample_remote(
    comfyui: ComfyUI, listed: str, patch: Patch, name: str, *, seed: int = 531, offload: str = "each step"
) -> None:
    """Sample; ComfyUI keeps a prompt's results, so one that is to run again has another `seed`."""
    scene = Scene.of(MMDIT, seed=531)
    remote = patch(scene.workflow, scene.workflow.remote(listed))
    scene.sample("RemoteSampler", remote, Sampling(seed=seed), name, offload=offload)
    comfyui.run(scene.workflow.graph)


@pytest.mark.parametrize("offload", ["each step", WHOLE])
def test_it_crosses_once(comfyui: ComfyUI, listed: Callable[[Model], str], proxy: Proxy, offload: str) -> None:
    # The second LoRA is one that no test before this one has uploaded.
    number, second = (570, "second-a") if offload == WHOLE else (560, "second-b")
    route = {"each step": "forward", WHOLE: "sample"}[offload]
    seeds = iter(range(number, number + 10))

    def sent(*patches: Patch) -> tuple[int, int]:
        """Return the bytes of uploads, and of the calls."""
        proxy.forget()
        seed = next(seeds)
        sample_remote(comfyui, listed(MMDIT), stacked(*patches), f"{seed}", seed=seed, offload=offload)
        calls = proxy.exchanges(route)
        assert calls
        return upload_bytes(proxy), sum(exchange.up_bytes for exchange in calls)

    sent()
    _, plain = sent()
    # The session changes how tensors are encoded as it measures; none takes more than they are.
    most = max(plain, Sampling().steps * 2 * prod(MMDIT.latent) * 4) + SMALL_BYTES
    sent(lora("kind-lora", 0.3))
    uploaded, calls = sent(lora("kind-lora", 0.4))
    assert uploaded < HANDSHAKE_BYTES
    assert calls < most
    both = (lora("kind-lora", 0.4), lora(second, 1.0))
    uploaded, _ = sent(*both)
    assert SECOND_BYTES < uploaded < SECOND_BYTES + SMALL_BYTES
    uploaded, calls = sent(*both)
    assert uploaded < HANDSHAKE_BYTES
    assert calls < most


def test_the_upload_outlives_the_worker(site: Site, listed: Callable[[Model], str]) -> None:
    patch, name = lora("kind-glora", 0.77), listed(MMDIT)
    scene = Scene.of(MMDIT, seed=531)
    local = patch(scene.workflow, scene.workflow.local(MMDIT))
    scene.sample("KSampler", local, Sampling(seed=582), "stock")
    site.comfyui.run(scene.workflow.graph)
    sample_remote(site.comfyui, name, patch, "before", seed=581)
    site.worker.process.kill()
    site.worker.begin()
    site.worker.await_ready()
    site.proxy.forget()
    sample_remote(site.comfyui, name, patch, "after", seed=582)
    assert_identical(site.comfyui.saved("stock"), site.comfyui.saved("after"))
    assert upload_bytes(site.proxy) < SMALL_BYTES


def test_two_models_by_turns_each_have_their_own(comfyui: ComfyUI, listed: Callable[[Model], str]) -> None:
    # By turns in one prompt: what each leaves on the worker's weights must not reach the other.
    scene = Scene.of(MMDIT)
    patches = {"one": lora("kind-lora", 1.0), "two": lora("kind-dora", 0.8), "none": stacked()}
    for turn in range(2):
        for name, patch in patches.items():
            for side, model in (
                ("stock", scene.workflow.local(MMDIT)),
                ("ours", scene.workflow.remote(listed(MMDIT))),
            ):
                scene.sample("KSampler", patch(scene.workflow, model), Sampling(seed=541), f"{side}-{name}-{turn}")
    comfyui.run(scene.workflow.graph)
    for turn in range(2):
        for name in patches:
            assert_identical(comfyui.saved(f"stock-{name}-{turn}"), comfyui.saved(f"ours-{name}-{turn}"))


def refused(comfyui: ComfyUI, scene: Scene, patched: Link) -> str:
    scene.sample("KSampler", patched, Sampling(seed=551), "refused")
    outcome = comfyui.api.run(scene.workflow.graph)
    assert outcome.error is not None, outcome.summary
    assert outcome.error["exception_type"].endswith("UnsupportedPatchError"), outcome.summary
    return outcome.error_message


def test_a_lora_for_another_model_is_refused(
    comfyui: ComfyUI, listed: Callable[[Model], str], proxy: Proxy
) -> None:
    scene = Scene.of(MMDIT)
    patched = lora("misfit", 1.0)(scene.workflow, scene.workflow.remote(listed(MMDIT)))
    assert "do not fit this model's weights (a LoRA for another one?), on 1 layer" in refused(
        comfyui, scene, patched
    )
    assert proxy.exchanges("forward") == []


@pytest.mark.each_release
def test_what_is_left_out_of_a_file_is_shown_by_its_name(comfyui: ComfyUI, listed: Callable[[Model], str]) -> None:
    scene = Scene.of(MMDIT)
    workflow = scene.workflow
    local = lora("partly", 0.9)(workflow, workflow.local(MMDIT))
    remote = lora("partly", 0.9)(workflow, workflow.remote(listed(MMDIT)))
    scene.sample("KSampler", local, Sampling(seed=553), "stock")
    scene.sample("KSampler", remote, Sampling(seed=553), "ours")
    shown = shown_while_running(comfyui.api.url, workflow.graph)
    assert_identical(comfyui.saved("stock"), comfyui.saved("ours"))
    text = (
        "partly.safetensors: 1 of 4 layers do not fit this model and are left out, as in ComfyUI: "
        "joint_blocks.1.x_block.attn.proj.weight"
    )
    # On the loader when it has loaded the file, and on the sampler when that is used.
    assert [node for node, each in shown.items() if text in each.texts] == [remote[0], sampler_of(workflow, remote)]


def sampler_of(workflow: Workflow, model: Link) -> str:
    (node,) = (
        name
        for name, each in workflow.graph.items()
        if each["class_type"] == "KSampler" and each["inputs"]["model"] == model
    )
    return node


def test_a_file_of_which_nothing_fits_is_refused_by_its_name_beside_one_that_fits(
    comfyui: ComfyUI, listed: Callable[[Model], str], proxy: Proxy
) -> None:
    scene = Scene.of(MMDIT)
    both = stacked(lora("kind-lora", 1.0), lora("misfit", 1.0))
    said = refused(comfyui, scene, both(scene.workflow, scene.workflow.remote(listed(MMDIT))))
    assert "misfit.safetensors: weight patches of the kind LoRAAdapter that do not fit" in said
    assert "kind-lora" not in said
    assert proxy.exchanges("forward") == []


def test_a_file_with_no_key_of_the_model_is_said_to_change_nothing(
    comfyui: ComfyUI, listed: Callable[[Model], str]
) -> None:
    scene = Scene.of(MMDIT)
    patched = lora("locon", 1.0)(scene.workflow, scene.workflow.remote(listed(MMDIT)))
    scene.sample("KSampler", patched, Sampling(seed=554), "unchanged")
    shown = shown_while_running(comfyui.api.url, scene.workflow.graph)
    text = "locon.safetensors: it has none of this model's keys, so it changes nothing."
    assert text in shown[patched[0]].texts


def test_a_merge_is_refused_by_name(comfyui: ComfyUI, listed: Callable[[Model], str], proxy: Proxy) -> None:
    scene = Scene.of(MMDIT)
    remote = scene.workflow.remote(listed(MMDIT))
    other = scene.workflow.local(MMDIT)
    merged = scene.workflow.add("ModelMergeSimple", model1=remote, model2=other, ratio=0.5)
    assert "ModelMergeSimple" in refused(comfyui, scene, merged)
    assert proxy.exchanges("forward") == []
