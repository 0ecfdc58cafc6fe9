"""Node packs of others beside ours, each in a real ComfyUI: a remote model gives the local result.

The packs are not part of this project. Tests look for their checkouts in $COMFYUI_PACKS, else in ~/comfy/packs, and
skip those that are not there, or whose requirements ComfyUI's environment does not have.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import groupby
from pathlib import Path

import pytest
import torch

from .conftest import running_site
from .harness.checkouts import Checkout
from .harness.site import Site
from .harness.workflow import MMDIT, UNET, Link, Model, Sampling, Scene, Workflow
from .pack_sweep import FOLDER, packs_found, patching_nodes, tried

pytestmark = pytest.mark.comfyui

_RES4LYF, _ANIMATEDIFF = "RES4LYF", "ComfyUI-AnimateDiff-Evolved"
_SAMPLING = Sampling(steps=4)
_NODES_A_PACK = 2


@pytest.fixture(scope="module")
def site(
    checkout: Checkout, python: Path, models_yaml: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Site]:
    """Give a ComfyUI that has all packs found."""
    packs = packs_found()
    print(f"node packs in {FOLDER}: {', '.join(pack.name for pack in packs) or 'none'}")
    if not packs:
        pytest.skip(f"no node packs: neither $COMFYUI_PACKS nor {FOLDER} has any")
    with running_site(checkout, python, models_yaml, tmp_path_factory.mktemp, packs) as made:
        yield made


def need(site: Site, pack: str, node: str) -> None:
    """Skip where ComfyUI does not have a pack's node."""
    if node not in site.comfyui.api.get("/object_info"):
        pytest.skip(f"{node} is not there: {FOLDER / pack} is missing, or ComfyUI could not import it")


def assert_same(site: Site, scene: Scene) -> None:
    """Run a scene that saves "local" and "remote", which are to be the same and worth comparing."""
    site.proxy.forget()
    site.comfyui.run(scene.workflow.graph)
    local, remote = site.comfyui.saved("local"), site.comfyui.saved("remote")
    assert torch.equal(local, remote)
    assert local.isfinite().all()
    assert local.std() > 0
    assert site.proxy.exchanges("forward")


def with_both(site: Site, model: Model, listed: str, sample: Callable[[Workflow, Scene, Link], Link]) -> Scene:
    """Return a scene in which the stock loader's model and the remote one are sampled by `sample`."""
    scene = Scene.of(model)
    flow = scene.workflow
    for name, loaded in {"local": flow.local(model), "remote": flow.remote(listed)}.items():
        flow.save(sample(flow, scene, loaded), name)
    return scene


def ksampler(flow: Workflow, scene: Scene, model: Link, sampler: str = "euler", scheduler: str = "normal") -> Link:
    """Add a KSampler."""
    inputs = {**vars(_SAMPLING), "sampler_name": sampler, "scheduler": scheduler}
    return flow.add(
        "KSampler",
        model=model,
        positive=scene.positive,
        negative=scene.negative,
        latent_image=scene.latent,
        **inputs,
    )


# One of each kind: explicit, multistep, implicit in part, with noise.
@pytest.mark.parametrize("sampler", ["res_2s", "res_3m", "res_2s_ode", "deis_2m", "rk_beta"])
@pytest.mark.parametrize("model", [UNET, MMDIT], ids=str)
def test_res4lyfs_samplers(site: Site, listed: Callable[[Model], str], model: Model, sampler: str) -> None:
    need(site, _RES4LYF, "ClownsharKSampler_Beta")
    known = site.comfyui.api.get("/object_info/KSampler")["KSampler"]["input"]["required"]["sampler_name"][0]
    if sampler not in known:
        pytest.skip(f"this RES4LYF has no sampler {sampler}")
    scene = with_both(
        site, model, listed(model), lambda flow, scene, loaded: ksampler(flow, scene, loaded, sampler)
    )
    assert_same(site, scene)


@pytest.mark.parametrize("model", [UNET, MMDIT], ids=str)
def test_res4lyfs_own_sampler_node(site: Site, listed: Callable[[Model], str], model: Model) -> None:
    need(site, _RES4LYF, "ClownsharKSampler_Beta")

    def sample(flow: Workflow, scene: Scene, loaded: Link) -> Link:
        return flow.add(
            "ClownsharKSampler_Beta",
            model=loaded,
            positive=scene.positive,
            negative=scene.negative,
            latent_image=scene.latent,
            eta=0.5,
            sampler_name="exponential/res_2s",
            scheduler="beta57",
            steps=4,
            steps_to_run=-1,
            denoise=1.0,
            cfg=4.0,
            seed=1,
            sampler_mode="standard",
            bongmath=True,
        )

    assert_same(site, with_both(site, model, listed(model), sample))


def test_animatediffs_sampling_without_a_motion_module(site: Site, listed: Callable[[Model], str]) -> None:
    need(site, _ANIMATEDIFF, "ADE_UseEvolvedSampling")

    def sample(flow: Workflow, scene: Scene, loaded: Link) -> Link:
        contexts = flow.add(
            "ADE_LoopedUniformContextOptions",
            context_length=2,
            context_stride=1,
            context_overlap=1,
            closed_loop=False,
        )
        settings = flow.add(
            "ADE_AnimateDiffSamplingSettings",
            batch_offset=0,
            noise_type="FreeNoise",
            seed_gen="comfy",
            seed_offset=0,
        )
        evolved = flow.add(
            "ADE_UseEvolvedSampling",
            model=loaded,
            beta_schedule="autoselect",
            context_options=contexts,
            sample_settings=settings,
        )
        return ksampler(flow, scene, evolved)

    scene = Scene.of(UNET, batch=4)
    flow = scene.workflow
    for name, loaded in {"local": flow.local(UNET), "remote": flow.remote(listed(UNET))}.items():
        flow.save(sample(flow, scene, loaded), name)
    assert_same(site, scene)


@pytest.mark.parametrize("model", [UNET, MMDIT], ids=str)
def test_nodes_that_patch_a_model_are_equal_or_refused_by_name(
    site: Site, listed: Callable[[Model], str], model: Model
) -> None:
    """A part of docs/packs.md, made anew: a few nodes of each pack."""
    nodes = list(patching_nodes(site.comfyui.api.get("/object_info")))
    of_packs = groupby(sorted(nodes, key=lambda node: node.pack), key=lambda node: node.pack)
    some = [node for _, group in of_packs for node in list(group)[-_NODES_A_PACK:]]
    assert some
    outcomes = [tried(site, node, model, listed(model)) for node in some]
    print(*outcomes, sep="\n")
    assert [str(each) for each in outcomes if not each.is_right] == []
