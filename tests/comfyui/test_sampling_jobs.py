"""Whole sampling runs in a worker's backend, without a server: equal to ComfyUI's own, without side effects."""

import json
import re
from pathlib import Path
from typing import Any

import pytest

from .harness.checkouts import Checkout
from .harness.fixtures import run_script

pytestmark = [pytest.mark.comfyui, pytest.mark.each_release]

Found = dict[str, Any]
# What of one run is another's on purpose; all else must differ, or equality would say little.
_ALIKE = (
    # Without a mask ddim is euler; one seed gives a batch's first latent whatever follows.
    {"euler", "ddim", "a latent with too few channels", "a batch", "a batch with its indices", "further keys"},
    {"dpmpp_2m unet", "ddim unet"},  # one step's difference, on the same schedule
    {"euler unet", "ModelSamplingDiscrete eps"},
    {"nothing to denoise", "no steps"},
    {"no guidance", "no conditioning without guidance"},
    {"the last steps", "restarted without noise"},
)


@pytest.fixture(scope="session")
def found(checkout: Checkout, python: Path, models_yaml: Path) -> Found:
    """Return the findings of scripts/jobs/run.py."""
    output = run_script(python, "jobs/run.py", checkout.root, models_yaml.parent)
    found: Found = json.loads(output.splitlines()[-1])
    return found


def test_every_run_is_common_ksamplers_bit_for_bit(found: Found) -> None:
    runs = found["equality"]
    assert len(runs) > 90
    wrong = [name for name, run in runs.items() if not (run["equal"] and run["keys"])]
    assert not wrong


def test_the_runs_are_worth_comparing(found: Found) -> None:
    runs = found["equality"]
    assert all(run["finite"] and run["spread"] > 0.1 for run in runs.values())
    alike: dict[tuple[float, ...], set[str]] = {}
    for name, run in runs.items():
        alike.setdefault(tuple(run["first"]), set()).add(name)
    for names in alike.values():
        known = (all(any(name.startswith(part) for part in parts) for name in names) for parts in _ALIKE)
        assert len(names) == 1 or any(known), names


def test_runs_and_calls_of_one_model_do_not_disturb_each_other(found: Found) -> None:
    assert found["independence"] == {
        "forward_same": True,
        "run_same": True,
        "patch_mattered": True,
        "entries_of_the_model": 1,
        "patches_left": 0,
    }


def test_weight_patches_that_are_wrong_are_refused_and_leave_the_model_as_it_was(found: Found) -> None:
    bad = found["bad_patches"]
    for name, said in (
        ("wrong shapes", "do not fit this model's weights"),
        ("unknown kind", "'Popen', which is not known"),
        ("missing tensor", "was not uploaded"),
        ("not numbers", "values are malformed"),
    ):
        assert re.match(f"BadPatchesError: .*{said}", bad["said"][name]), bad["said"][name]
        assert bad["same"][name]
    assert re.match("ModelRunError: .*shape", bad["a larger one"]), bad["a larger one"]
    assert bad["a right one"] == "nothing"
    assert bad["same in the end"]


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("unknown model", "ModelNotFoundError: There is no model 'no-such"),
        ("outside", "ModelNotFoundError: There is no model '../loras"),
        ("a ControlNet", "ModelNotFoundError: There is no model 'controlnet:"),
        ("unknown weight dtype", "ModelRunError: weight_dtype 'int2'"),
        ("wrong fingerprint", "ModelMismatchError: .*mmdit-other.*has changed"),
        ("another architecture", "BadPatchesError: .*second model does not have"),
        ("wrong shapes", "BadPatchesError: .*do not fit this model's weights"),
        ("missing tensor", "BadPatchesError: .*not uploaded"),
        ("wrong types", "BadPatchesError: .*not known here"),
    ],
)
def test_a_merge_that_is_wrong_is_refused_and_leaves_the_model_as_it_was(
    found: Found, name: str, said: str
) -> None:
    assert re.match(said, found["bad_merges"]["said"][name]), found["bad_merges"]["said"][name]
    assert found["bad_merges"]["same"][name]


def test_a_model_that_is_merged_leaves_memory_when_it_must_and_not_while_it_is_needed(found: Found) -> None:
    assert found["short_of_memory"] == {
        "mattered": True,
        "freed": True,
        "same when loaded again": True,
        "same without room": True,
        "held": [True, True],
        "left": 1,
        "same unmerged": True,
    }


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("outside", "ModelNotFoundError: There is no ControlNet '../diffusion_models"),
        ("unknown", "ModelNotFoundError: There is no ControlNet"),
        ("changed", "ModelMismatchError: .*has changed"),
        ("not finite", "ModelRunError: .*no proper strength"),
        ("another size", "ModelRunError: .*not of the model's size"),
        ("odd chunks", "ModelRunError: .*not of the model's size"),
        ("no latent", "ModelRunError: .*latent is missing"),
        ("unknown conditioning", "ModelRunError: The ControlNet takes no 'gate'"),
        ("encoded", "ModelRunError: .*not of the form that this one takes"),
        ("too many", "ModelRunError: There are over 16 ControlNets"),
        ("a place that is not there", "ModelRunError: .*names a ControlNet that is not there"),
        ("a table that is none", "ModelRunError: The control_nets of the run"),
        ("of another kind of model", "ModelRunError: The ControlNet 'edges.safetensors' raised RuntimeError"),
        ("a run of another kind of model", "ModelRunError: The ControlNet 'edges.safetensors' raised RuntimeError"),
    ],
)
def test_a_control_net_that_is_wrong_is_refused(found: Found, name: str, said: str) -> None:
    assert re.match(said, found["bad_controls"]["said"][name]), found["bad_controls"]["said"][name]


def test_control_nets_that_are_wrong_leave_all_as_it_was(found: Found) -> None:
    assert found["bad_controls"]["controls"]
    assert found["bad_controls"]["same"]


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("another function", "knows no function 'SelfAttentionGuidance.attn_and_record'"),
        ("a function of another module", "knows no function 'os.system'"),
        ("no name", "knows no function 3"),
        ("not of the form", "not of a form known here"),
        ("a function itself in a list's place", "patches_replace of a call are malformed"),
        ("a dict in a list's place", "patches of a call are malformed"),
        ("no table", "patches of a call are malformed"),
        ("values of another function", "reads something else"),
        ("a value missing", "reads something else"),
        ("a tensor for a value", "reads something else"),
        ("values too deep", "reads something else"),
        ("too many values", "reads something else"),
        ("too many defaults", "reads something else"),
        ("too many places", "at over 4096 places"),
        ("in a run", "knows no function"),
        ("no list in a run", "sampler_post_cfg_function of the run is malformed"),
        ("too many in a run", "sampler_post_cfg_function of the run is malformed"),
        ("a patch's place in a run", "knows no function 'os.system'"),
        ("functions in functions in a run", "nests functions too deep"),
    ],
)
def test_patches_of_the_network_that_are_wrong_are_refused(found: Found, name: str, said: str) -> None:
    assert re.match(f"ModelRunError: .*{said}", found["bad_stock_patches"]["said"][name])


def test_patches_of_the_network_that_are_wrong_leave_all_as_it_was(found: Found) -> None:
    assert found["bad_stock_patches"]["patches"]
    assert found["bad_stock_patches"]["same"]


def test_a_run_may_be_given_its_noise_and_its_schedule(found: Found) -> None:
    runs = found["given"]
    assert all(run["equal"] and run["untouched"] for run in runs.values())
    assert len({run["first"] for run in runs.values()}) == len(runs)


@pytest.mark.parametrize(("at", "calls"), [("at a call", 2), ("at a step", 1)])
def test_a_cancelled_run_ends_within_a_call(found: Found, at: str, calls: int) -> None:
    # Counted as calls begin: the one that is cancelled begins and goes no further.
    assert found["interrupted"][at] == {"raised": "InterruptedCallError", "calls": calls, "next_same": True}


def test_each_step_is_reported_with_a_picture_where_one_was_asked_for(found: Found) -> None:
    previews = found["previews"]
    assert previews["none"] == [[1, 2, None], [2, 2, None]]
    for method in ("auto", "latent2rgb", "taesd"):  # without its weights, ComfyUI's TAESD is latent2rgb
        assert previews[method] == [[1, 2, ["JPEG", 4, 4]], [2, 2, ["JPEG", 4, 4]]]
    assert previews["video"] == previews["auto"]
    assert previews["wide"] == [[1, 1, ["JPEG", 512, 7]]]


def test_a_clip_vision_models_output_arrives_as_one(found: Found) -> None:
    assert found["containers"] == {"kind": True, "fields": ["image_embeds", "image_sizes"], "same": True}


@pytest.mark.parametrize(
    ("job", "said"),
    [
        ("sampler", "no sampler 'nosuch'"),
        ("scheduler", "no scheduler 'nosuch'"),
        ("preview", "no preview method 'nosuch'"),
        ("unknown part", "surprise"),
        ("no latent", "latent"),
        ("latent of ints", "latent"),
        ("conditioning", "positive"),
        ("control", "positive"),
        ("batch_index", "batch_index"),
        ("wrappers", "model_options"),
        ("functions", "A function of a node"),
        ("class", "Popen"),
        ("imported class", "math"),
        ("classes without sigmas", "do not go together"),
        ("classes at odds", "do not go together"),
        ("method", "model's sampling"),
        ("dunder", "model's sampling"),
        ("object", "form known"),
        ("the model itself", "mmdit.*raised"),
    ],
)
def test_a_job_that_is_wrong_is_refused_for_what_is_wrong(found: Found, job: str, said: str) -> None:
    assert re.match(rf"ModelRunError: .*{said}", found["refusals"][job]), found["refusals"][job]


@pytest.mark.parametrize("change", ["nothing", "sd3", "lcm", "option data", "rope"])
def test_data_is_no_obstacle(found: Found, change: str) -> None:
    assert found["obstacles"][change] is None


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ("APG", "APG"),
        ("post cfg", "sampler_post_cfg_function"),
        ("function wrapper", "model_function_wrapper"),
        ("mask function", "denoise_mask_function"),
        ("wrapper", "EasyCache"),
        ("callback", "somebody's"),
        ("context windows", "Context Windows"),
        ("block patch", r"the block patch output_block_patch \(obstacles: obstacles\)"),
        ("weights", "LoRA"),
        ("latent format", "latent_format"),
        ("own sampling class", "own_sampling.*a node's own"),
        ("own sampling method", "percent_to_sigma is a node's own"),
        ("own sampling", "OwnSampling"),
        ("control", "ControlNet.*positive"),
        ("hooks", "hooks.*positive"),
        ("gligen", "GLIGEN"),
        ("unknown object", "positive.*surprise"),
        ("sampler", "somebody's"),
        ("scheduler", "somebody's"),
        ("latent", "meta device"),
    ],
)
def test_code_is_an_obstacle_and_named(found: Found, change: str, named: str) -> None:
    assert re.search(named, found["obstacles"][change] or "nothing"), found["obstacles"][change]


def test_every_name_that_comfyui_has_is_known_as_its_own(found: Found) -> None:
    assert found["unknown_stock_names"] == []


@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "float8_e4m3fn", "float8_e5m2"])
def test_every_kind_of_weight_patch_on_weights_of_every_dtype(found: Found, dtype: str) -> None:
    of_dtype = found["weight_dtypes"][dtype]
    runs = of_dtype["runs"]
    assert dtype in of_dtype["kept"]
    assert len(runs) == 9 * 2 + 3
    wrong = [name for name, run in runs.items() if not (run["each step"] and run["whole loop"])]
    assert not wrong
    assert of_dtype["unpatched again"]
    assert all(run["finite"] and run["mattered"] for run in runs.values())
    # ComfyUI looks at no strength where a weight is set.
    assert runs["set 1.0"]["first"] == runs.pop("set 0.6")["first"]
    assert len({tuple(run["first"]) for run in runs.values()}) == len(runs)


@pytest.mark.parametrize("cache", ["EasyCache", "LazyCache"])
@pytest.mark.parametrize("model", ["unet", "wan"])
def test_a_step_cache_skips_the_calls_at_the_worker_that_it_skips_here(
    found: Found, cache: str, model: str
) -> None:
    run = found["step_caches"][f"{cache} {model}"]
    assert run["same"]
    assert run["mattered"]
    assert run["finite"]
    assert run["here"] == run["at the worker"] == run["sent"]
    assert 0 < run["here"] < run["without a cache"]


def test_two_clients_with_different_loras_each_get_their_own_result(found: Found) -> None:
    assert found["two_clients"] == {
        "clients": 2,
        "turns": ["one", "other"] * 4,
        "by turns": {"one": True, "other": True},
        "whole loops": [True] * 4,
        "a third without": True,
        "different": 3,
    }


def test_conditioning_of_several_kinds_at_once(found: Found) -> None:
    runs = found["conditioning"]
    assert len(runs) == 4
    assert all(run["each step"] and run["whole loop"] and run["finite"] for run in runs.values()), runs
    assert len({tuple(run["first"]) for run in runs.values()}) == len(runs)


def test_a_network_at_the_worker_sees_the_order_in_memory_that_one_here_does(found: Found) -> None:
    assert found["memory_orders"] == {
        "conditioning": {"each step": True, "whole loop": True},
        "each step": True,
        "matters": True,
        "seen": True,
        "channels last": [[1024, 1, 64, 4]],
    }


def test_a_network_at_the_worker_casts_as_one_here_does(found: Found) -> None:
    assert found["autocast"] == {"same": True, "matters": True, "over": True}


def test_a_model_of_quantised_weights_is_patched_and_merged_into_as_here(found: Found) -> None:
    runs = found["quantised"]
    for name in ("alone", "with a LoRA", "merged into"):
        assert runs[name] == {"each step": True, "whole loop": True, "mattered": True}, name
    assert runs["first again"]


def test_quantised_weights_are_merged_into_another_model_or_refused_where_comfyui_cannot(found: Found) -> None:
    run = found["quantised"]["merged into another"]
    if run["here"] == "nothing":
        assert run == {"here": "nothing", "at the worker": "nothing", "each step": True, "whole loop": True}
    else:
        assert run["at the worker"].startswith("UnsupportedPatchError")
        assert "second model has quantised weights, which ComfyUI does not merge" in run["at the worker"]


def test_a_worker_without_room_for_the_weights_gives_what_one_here_does(found: Found) -> None:
    runs = found["low_memory"]
    assert len(runs) == 11
    for name, run in runs.items():
        assert run["each step"], name
        assert run["whole loop"], name
        assert run["share"] < 0.1, name
