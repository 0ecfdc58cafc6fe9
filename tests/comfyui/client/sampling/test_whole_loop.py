"""A run at the worker is shown step by step, and gives the latent that KSampler would give."""

from __future__ import annotations

import io
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from PIL import Image
from tests.comfyui.client.conftest import Sides

from comfy_gpu_offload.client.timings import CallTimings
from comfy_gpu_offload.errors import MessageError, ModelChangedError, UnsupportedPatchError, UnsupportedRunError

FIELDS = {"sampler": "euler", "scheduler": "normal", "seed": 4, "steps": 3, "cfg": 2.0}
LATENT = {"samples": torch.zeros(1, 4, 2, 2), "downscale_ratio_spacial": 8, "own": 3}
CONTEXT = torch.full((1, 2, 8), 0.25)


def run(sample: Any, patcher: Any, latent: Any = LATENT, **changed: Any) -> dict[str, Any]:
    from comfy_gpu_offload.comfyui.client.sampling.whole_loop import run_whole_loop

    conditioning = {side: [[CONTEXT, {}]] for side in ("positive", "negative")}
    return run_whole_loop(sample, patcher, FIELDS | changed, **conditioning, latent=latent)


def giving(result: Any, *steps: tuple[int, int, bytes | None]) -> Any:
    """Return a worker that reports these steps and gives that result."""

    def sample(fields: Any, job: Any, on_progress: Any, /, *, patches: Any) -> Any:
        sample.given = SimpleNamespace(fields=fields, job=job, patches=patches)
        for step in steps:
            on_progress(*step)
        return result, CallTimings()

    return sample


def picture(width: int = 4) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (width, 2)).save(buffer, "JPEG")
    return buffer.getvalue()


def shown_steps() -> list[tuple[int, int | None, Any]]:
    import comfy.utils

    return comfy.utils.ProgressBar.bars[-1].shown


def test_it_gives_what_the_same_run_gives_here(sides: Sides) -> None:
    import comfy.sample

    out = run(sides.remote.remote.sample, sides.remote)
    samples = LATENT["samples"]
    assert isinstance(samples, torch.Tensor)
    noise = comfy.sample.prepare_noise(samples, 4)
    sides_of = ([[CONTEXT, {}]], [[CONTEXT, {}]])
    expected = comfy.sample.sample(sides.local, noise, 3, 2.0, "euler", "normal", *sides_of, samples)
    assert torch.equal(out["samples"], expected)
    assert {key: value for key, value in out.items() if key != "samples"} == {"own": 3}
    assert [step[:2] for step in shown_steps()] == [(1, 3), (2, 3), (3, 3)]


def test_a_step_that_is_told_twice_is_shown_once_and_the_bar_never_goes_back(sides: Sides) -> None:
    steps = [(1, 3, None), (1, 3, None), (2, 3, None), (1, 3, picture()), (3, 3, None)]
    run(giving(torch.ones(1, 4, 2, 2), *steps), sides.remote)
    assert [step[0] for step in shown_steps()] == [1, 2, 2, 3]
    kind, image, size = shown_steps()[2][2]
    assert (kind, image.size, size) == ("JPEG", (4, 2), 512)


@pytest.mark.parametrize("data", [b"no picture", b"", picture(4097)], ids=["no picture", "nothing", "too large"])
def test_a_preview_that_cannot_be_shown_costs_no_run(sides: Sides, data: bytes) -> None:
    run(giving(torch.ones(1, 4, 2, 2), (1, 3, data)), sides.remote)
    assert shown_steps() == [(1, 3, None)]


def test_the_worker_is_told_of_the_previews_that_comfyui_is_set_to(sides: Sides) -> None:
    sample = giving(torch.ones(1, 4, 2, 2))
    run(sample, sides.remote)
    assert sample.given.fields == FIELDS | {"preview": "none"}
    assert sample.given.patches is None


def test_weight_patches_go_with_it(sides: Sides) -> None:
    patched = sides.remote.clone()
    patched.add_patches({"diffusion_model.layer.bias": ("diff", (torch.ones(4),))}, 0.5)
    sample = giving(torch.ones(1, 4, 2, 2))
    run(sample, patched)
    assert sample.given.patches.strengths == ((0.5, 1.0),)
    assert not torch.equal(
        run(patched.remote.sample, patched)["samples"], run(patched.remote.sample, sides.remote)["samples"]
    )


@pytest.mark.parametrize("result", [None, 3, torch.ones(1, 4, 2, 3), [torch.ones(1, 4, 2, 2)], {}], ids=type)
def test_a_reply_that_is_no_latent_is_refused(sides: Sides, result: Any) -> None:
    with pytest.raises(MessageError, match="no latent of the size that was sent"):
        run(giving(result), sides.remote)


def test_a_latent_may_come_back_in_the_shape_that_the_model_gives_it(
    comfy_stand_in: Any, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    import comfy.latent_formats

    from comfy_gpu_offload.comfyui.client.changes import loaded_code

    # Before the model is loaded, and before the code is known: a change of it would be refused.
    monkeypatch.setattr(loaded_code, "_known", {})
    monkeypatch.setattr(comfy.latent_formats.LatentFormat, "process_out", lambda _, latent: latent[:, :2])
    sides: Sides = request.getfixturevalue("sides")
    assert run(giving(torch.ones(1, 2, 2, 2)), sides.remote)["samples"].shape == (1, 2, 2, 2)
    assert run(giving(torch.ones(1, 4, 2, 2)), sides.remote)["samples"].shape == (1, 4, 2, 2)


def test_what_can_only_be_done_here_is_refused_with_what_to_do(sides: Sides) -> None:
    sides.remote.model_options["context_handler"] = object()
    with pytest.raises(UnsupportedRunError, match=r'Context Windows.*set offload to "auto" or "each step"'):
        run(giving(None), sides.remote)


def test_what_no_mode_takes_is_refused(sides: Sides) -> None:
    sides.remote.add_object_patch("diffusion_model.layer", torch.nn.Identity())
    with pytest.raises(UnsupportedPatchError):
        run(giving(None), sides.remote)


def test_a_change_of_the_model_and_of_the_workers_file_have_the_loader_run_again(sides: Sides) -> None:
    from comfy_gpu_offload.comfyui.client import loader_epoch

    def changed(*_: Any, **__: Any) -> Any:
        raise ModelChangedError("The model has changed.", code="model_changed")

    epoch = loader_epoch.current()
    with pytest.raises(ModelChangedError):
        run(changed, sides.remote)
    assert loader_epoch.current() == epoch + 1
    sides.remote.model.process_latent_out = abs
    with pytest.raises(UnsupportedRunError, match="process_latent_out"):
        run(giving(None), sides.remote)
    assert loader_epoch.current() == epoch + 2
