"""The kinds of models that ComfyUI knows."""

import comfy.supported_models_base


class StandInConfig(comfy.supported_models_base.BASE):
    """A linear layer over a latent's channels."""

    unet_config = {"image_model": "stand_in", "channels": 4}  # noqa: RUF012  # ComfyUI's own
    sampling_settings = {"shift": 1.0}  # noqa: RUF012
