"""The nodes' definitions as the frontend gets them."""

from typing import Any

import pytest
import torch

from .harness.api import PromptRejectedError
from .harness.site import ComfyUI
from .harness.workflow import DIGITS, MODELS, Sampling, Scene

pytestmark = [pytest.mark.comfyui, pytest.mark.each_release]

NODES = {
    "RemoteCheckpointLoader": "Remote Checkpoint Loader",
    "RemoteModelLoader": "Remote Model Loader",
    "RemoteControlNetLoader": "Remote ControlNet Loader",
    "RemoteCLIPLoader": "Remote CLIP Loader",
    "RemoteDualCLIPLoader": "Remote Dual CLIP Loader",
    "RemoteTripleCLIPLoader": "Remote Triple CLIP Loader",
    "RemoteQuadrupleCLIPLoader": "Remote Quadruple CLIP Loader",
    "RemoteVAELoader": "Remote VAE Loader",
    "RemoteCLIPVisionLoader": "Remote CLIP Vision Loader",
    "RemoteUpscaleModelLoader": "Remote Upscale Model Loader",
    "RemoteAudioEncoderLoader": "Remote Audio Encoder Loader",
    "RemoteSampler": "Remote Sampler",
}


def inputs(comfyui: ComfyUI, node: str) -> dict[str, Any]:
    """Return a node's inputs, required then optional, as ``[type, options]``."""
    groups = comfyui.api.object_info(node)["input"]
    return {**groups["required"], **groups.get("optional", {})}


def choices(definition: Any) -> list[str]:
    """Return the options of a combo, in the older or the newer form."""
    options: list[str] = definition[0] if isinstance(definition[0], list) else definition[1]["options"]
    return options


def test_the_pack_is_imported(comfyui: ComfyUI) -> None:
    assert "IMPORT FAILED" not in comfyui.process.output


@pytest.mark.parametrize("node", NODES)
def test_nodes_explain_themselves(comfyui: ComfyUI, node: str) -> None:
    definition = comfyui.api.object_info(node)
    assert definition["display_name"] == NODES[node]
    assert definition["description"].strip()
    without = [name for name, (_, *options) in inputs(comfyui, node).items() if not options[0].get("tooltip")]
    assert without == []


def test_the_loader_follows_the_contract(comfyui: ComfyUI) -> None:
    given = inputs(comfyui, "RemoteModelLoader")
    # Saved workflows hold the values in this order, without their names.
    assert list(given) == ["use_runpod", "weight_dtype", "model_name"]
    assert list(inputs(comfyui, "RemoteControlNetLoader")) == ["use_runpod", "control_net_name"]
    assert list(inputs(comfyui, "RemoteVAELoader")) == ["use_runpod", "vae_name"]
    assert list(inputs(comfyui, "RemoteCLIPVisionLoader")) == ["use_runpod", "clip_name"]
    assert comfyui.api.object_info("RemoteCLIPVisionLoader")["output"] == ["CLIP_VISION"]
    assert list(inputs(comfyui, "RemoteUpscaleModelLoader")) == ["use_runpod", "model_name"]
    assert comfyui.api.object_info("RemoteUpscaleModelLoader")["output"] == ["UPSCALE_MODEL"]
    assert list(inputs(comfyui, "RemoteAudioEncoderLoader")) == ["use_runpod", "audio_encoder_name"]
    assert comfyui.api.object_info("RemoteAudioEncoderLoader")["output"] == ["AUDIO_ENCODER"]
    assert comfyui.api.object_info("RemoteModelLoader")["output"] == ["MODEL"]
    assert given["use_runpod"][0] == "BOOLEAN"
    assert given["use_runpod"][1]["default"] is True
    assert choices(given["weight_dtype"]) == choices(inputs(comfyui, "UNETLoader")["weight_dtype"])


def test_the_sampler_has_ksamplers_inputs_and_offload(comfyui: ComfyUI) -> None:
    given, ksampler = inputs(comfyui, "RemoteSampler"), inputs(comfyui, "KSampler")
    assert list(given) == [*ksampler, "offload"]
    assert comfyui.api.object_info("RemoteSampler")["output"] == ["LATENT"]
    for name in ("sampler_name", "scheduler"):
        assert choices(given[name]) == choices(ksampler[name])
    for name in ("seed", "steps", "cfg", "denoise"):
        told = ("default", "min", "max", "step", "round", "control_after_generate")
        assert given[name][0] == ksampler[name][0]
        assert {key: given[name][1].get(key) for key in told} == {key: ksampler[name][1].get(key) for key in told}
    # The third of the contract's choices, whole loop, comes in a later release.
    assert choices(given["offload"])[:2] == ["auto", "each step"]
    assert given["offload"][1]["default"] == "auto"


@pytest.mark.parametrize(
    ("node", "name"),
    [
        ("RemoteModelLoader", "weight_dtype"),
        ("RemoteSampler", "sampler_name"),
        ("RemoteSampler", "scheduler"),
        ("RemoteSampler", "offload"),
    ],
)
def test_a_choice_that_is_none_is_refused_before_the_run(comfyui: ComfyUI, node: str, name: str) -> None:
    scene = Scene.of(DIGITS)
    scene.sample("RemoteSampler", scene.workflow.remote(DIGITS.file), Sampling(), "never")
    (number,) = (number for number, each in scene.workflow.graph.items() if each["class_type"] == node)
    scene.workflow.graph[number]["inputs"][name] = "none of them"
    with pytest.raises(PromptRejectedError, match=r"value_not_in_list.*none of them"):
        comfyui.api.queue(scene.workflow.graph)


def test_a_model_has_to_be_chosen(comfyui: ComfyUI) -> None:
    scene = Scene.of(DIGITS)
    scene.sample("RemoteSampler", scene.workflow.remote(""), Sampling(), "never")
    with pytest.raises(PromptRejectedError, match="Choose a model: the button on the node"):
        comfyui.api.queue(scene.workflow.graph)


def test_a_choice_may_come_from_a_node_whose_output_is_a_list_of_choices(comfyui: ComfyUI) -> None:
    """The form that some packs' sampler selectors have."""
    scene = Scene.of(DIGITS)
    model = scene.workflow.remote(DIGITS.file)
    name = scene.workflow.add("OffloadTestSamplerName", sampler_name="heun")
    scene.sample("RemoteSampler", model, Sampling(seed=3, sampler_name="heun"), "named")
    scene.sample("RemoteSampler", model, Sampling(seed=3), "linked")
    (_, linked) = (each for each in scene.workflow.graph.values() if each["class_type"] == "RemoteSampler")
    linked["inputs"]["sampler_name"] = name
    comfyui.run(scene.workflow.graph)
    assert torch.equal(comfyui.saved("linked"), comfyui.saved("named"))


def test_the_loaders_combo_is_filled_from_the_worker(comfyui: ComfyUI) -> None:
    assert inputs(comfyui, "RemoteModelLoader")["model_name"][1]["worker_list"] == "models"
    names = comfyui.offered_models()
    for model in MODELS:
        assert len([name for name in names if name.endswith(model.file)]) == 1, names
    assert not any("lora" in name for name in names), names


def test_control_nets_have_a_combo_of_their_own(comfyui: ComfyUI) -> None:
    assert inputs(comfyui, "RemoteControlNetLoader")["control_net_name"][1]["worker_list"] == "control_nets"
    assert inputs(comfyui, "RemoteVAELoader")["vae_name"][1]["worker_list"] == "vaes"
    names = comfyui.offered("control_nets")
    assert "edges.safetensors" in names
    assert set(names).isdisjoint(comfyui.offered_models())


def test_the_example_is_a_template_of_nodes_that_exist(comfyui: ComfyUI) -> None:
    examples = comfyui.api.get("/workflow_templates").get("comfy-gpu-offload")
    assert examples, "ComfyUI lists no example workflow of this pack"
    for name in examples:
        workflow = comfyui.api.get(f"/api/workflow_templates/comfy-gpu-offload/{name}.json")
        for node in workflow["nodes"]:
            if node["type"] not in {"MarkdownNote", "Note"}:
                comfyui.api.object_info(node["type"])
        assert any(node["type"] in NODES for node in workflow["nodes"])
