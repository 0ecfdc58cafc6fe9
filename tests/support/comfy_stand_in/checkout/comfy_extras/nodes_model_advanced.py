"""Model samplings of a node's own."""

import comfy.model_sampling


class LCM(comfy.model_sampling.EPS):
    """A few-step kind of prediction."""


class ModelSamplingDiscreteDistilled(comfy.model_sampling.ModelSamplingDiscreteFlow):
    """A schedule with fewer steps."""
