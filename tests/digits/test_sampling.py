from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from comfy_gpu_offload.digits.conditioning import conditioning, unconditional
from comfy_gpu_offload.digits.latent import process_out
from comfy_gpu_offload.digits.sampling import noise, sample, schedule


class Recorder:
    """Stands in for the model: answers with `velocity(hidden_states)` and keeps its calls."""

    def __init__(self, velocity: Callable[[Tensor], Tensor]) -> None:
        self.velocity = velocity
        self.calls: list[dict[str, Tensor]] = []

    def __call__(
        self,
        *,
        hidden_states: Tensor,
        timestep: Tensor,
        encoder_hidden_states: Tensor,
        pooled_projections: Tensor,
        return_dict: bool,
    ) -> tuple[Tensor]:
        assert return_dict is False
        self.calls.append(
            {
                "hidden_states": hidden_states,
                "timestep": timestep,
                "context": encoder_hidden_states,
                "pooled": pooled_projections,
            }
        )
        return (self.velocity(hidden_states),)


def test_schedule_is_comfyuis_simple_scheduler() -> None:
    torch.testing.assert_close(schedule(4), torch.tensor([1.0, 0.9, 0.75, 0.5, 0.0]), rtol=0, atol=1e-7)
    # 1000 / 7 is not whole: it takes the entries 1000, 858, 715, 572, 429, 286 and 143 of its table.
    t = torch.tensor([1.0, 0.858, 0.715, 0.572, 0.429, 0.286, 0.143, 0.0])
    torch.testing.assert_close(schedule(7), 3 * t / (1 + 2 * t), rtol=0, atol=1e-6)


def test_schedule_without_shift_is_even() -> None:
    torch.testing.assert_close(schedule(5, shift=1.0), torch.linspace(1, 0, 6), rtol=0, atol=1e-6)


def test_schedule_falls_from_one_to_zero() -> None:
    for steps in (1, 20, 333, 1000):
        sigmas = schedule(steps)
        assert sigmas.shape == (steps + 1,)
        assert sigmas.dtype == torch.float32
        assert sigmas[0] == 1
        assert sigmas[-1] == 0
        assert (sigmas.diff() < 0).all()


@pytest.mark.parametrize(("steps", "shift"), [(0, 3.0), (1001, 3.0), (20, 0.0), (20, float("nan"))])
def test_an_impossible_schedule_is_refused(steps: int, shift: float) -> None:
    with pytest.raises(ValueError, match="must be"):
        schedule(steps, shift)


def test_noise_of_a_sample_depends_on_seed_and_index_alone() -> None:
    batch = noise([3, 1, 4, 1, 5], seed=7)
    assert batch.shape == (5, 16, 8, 8)
    assert batch.dtype == torch.float32
    for size in range(1, 5):
        assert torch.equal(noise([0] * size, seed=7), batch[:size])
    assert not torch.equal(batch[1], batch[3])
    assert not torch.equal(noise([3], seed=8), batch[:1])


def test_noise_is_that_of_comfyui() -> None:
    # comfy.sample.prepare_noise
    torch.manual_seed(11)
    assert torch.equal(noise([1, 2], seed=11), torch.randn(2, 16, 8, 8))


def test_the_model_sees_both_halves_in_its_dtype() -> None:
    model = Recorder(torch.zeros_like)
    sample(model, [3, 8], steps=2, dtype=torch.bfloat16, seed=5)
    first, second = model.calls
    labelled, dropped = conditioning([3, 8]), unconditional(2)
    assert torch.equal(first["hidden_states"], noise([3, 8], 5).repeat(2, 1, 1, 1).bfloat16())
    assert torch.equal(first["context"], torch.cat([labelled[0], dropped[0]]).bfloat16())
    assert torch.equal(first["pooled"], torch.cat([labelled[1], dropped[1]]).bfloat16())
    assert first["timestep"].dtype == torch.float32
    assert first["timestep"].tolist() == [1000.0] * 4
    assert second["timestep"].tolist() == pytest.approx([750.0] * 4)


def test_guidance_leaves_the_dropped_half_for_the_labelled_one() -> None:
    def velocity(hidden_states: Tensor) -> Tensor:
        answer = torch.full_like(hidden_states, 0.5)
        answer[len(answer) // 2 :] = 0.25
        return answer

    start = noise([0], 0)
    for guidance, total in ((0.0, 0.25), (1.0, 0.5), (2.0, 0.75)):
        latents = sample(Recorder(velocity), [0], steps=3, guidance=guidance)
        torch.testing.assert_close(latents, process_out(start - total), rtol=0, atol=1e-6)


def test_euler_integrates_an_exact_flow() -> None:
    target = torch.full((1, 16, 8, 8), 0.25)
    start = noise([4], seed=2)
    latents = sample(Recorder((start - target).expand_as), [4], steps=7, seed=2)
    torch.testing.assert_close(latents, process_out(target), rtol=0, atol=1e-5)


def test_equal_predictions_give_equal_bits() -> None:
    runs = [sample(Recorder(torch.sin), [1, 2, 3], steps=6, seed=9) for _ in range(2)]
    assert torch.equal(runs[0], runs[1])
    assert not torch.equal(runs[0], sample(Recorder(torch.sin), [1, 2, 3], steps=6, seed=10))


def test_the_state_stays_in_float32() -> None:
    """A step too small for bfloat16 must not be lost."""
    latents = sample(Recorder(lambda x: torch.full_like(x, 1e-4)), [6], steps=4, dtype=torch.bfloat16)
    assert latents.dtype == torch.float32
    torch.testing.assert_close(latents, process_out(noise([6], 0) - 1e-4), rtol=0, atol=1e-6)
    assert not torch.equal(latents, process_out(noise([6], 0)))


def test_callback_is_told_of_each_step() -> None:
    told: list[tuple[int, int, Tensor]] = []
    latents = sample(Recorder(torch.sin), [1], steps=3, callback=lambda *step: told.append(step))
    assert [step[:2] for step in told] == [(1, 3), (2, 3), (3, 3)]
    assert torch.equal(told[-1][2], latents)
    assert not torch.equal(told[0][2], latents)


def test_a_wrong_label_is_refused_before_the_model_is_called() -> None:
    model = Recorder(torch.zeros_like)
    with pytest.raises(ValueError, match="not 12"):
        sample(model, [12])
    assert model.calls == []
