"""Model samplings of a node's own."""

from typing import Any

import comfy.model_sampling


class LCM(comfy.model_sampling.EPS):
    """A few-step kind of prediction."""


class ModelSamplingDiscreteDistilled(comfy.model_sampling.ModelSamplingDiscreteFlow):
    """A schedule with fewer steps."""


class RescaleCFG:
    """Scales guidance by what the model's sampling says."""

    def patch(self, model: Any, multiplier: float) -> tuple[Any]:
        """Put the function on a clone of the model."""
        made = model.clone()
        model_sampling = made.get_model_object("model_sampling")

        def rescale_cfg(args: Any) -> Any:
            return model_sampling.timestep(args["cond"]) * multiplier

        made.model_options["sampler_cfg_function"] = rescale_cfg
        return (made,)
