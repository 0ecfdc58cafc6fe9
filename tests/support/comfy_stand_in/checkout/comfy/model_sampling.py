"""ComfyUI's schedules and kinds of prediction."""

import torch


class CONST:
    """A flow: the model predicts what leads from picture to noise."""

    def calculate_input(self, sigma: torch.Tensor, noise: torch.Tensor) -> torch.Tensor:
        """Return the model's input."""
        return noise


class EPS:
    """The model predicts noise."""

    def calculate_input(self, sigma: torch.Tensor, noise: torch.Tensor) -> torch.Tensor:
        """Return the model's input."""
        return noise / (sigma.view(-1, *[1] * (noise.dim() - 1)) ** 2 + 1.0) ** 0.5


class ModelSamplingDiscreteFlow(torch.nn.Module):
    """A schedule of 10 sigmas with a shift."""

    def __init__(self, model_config: object = None) -> None:
        super().__init__()
        self.set_parameters(shift=1.0)

    def set_parameters(self, shift: float = 1.0, multiplier: int = 1000) -> None:
        """Make the schedule."""
        self.shift, self.multiplier = shift, multiplier
        steps = torch.arange(1, 11) / 10
        self.register_buffer("sigmas", shift * steps / (1 + (shift - 1) * steps))

    def timestep(self, sigma: torch.Tensor) -> torch.Tensor:
        """Return the time that the model is given."""
        return sigma * self.multiplier
