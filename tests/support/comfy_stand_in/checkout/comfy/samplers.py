"""ComfyUI's samplers."""


class KSampler:
    """Names of samplers and schedulers."""

    SAMPLERS = ["euler", "heun"]  # noqa: RUF012  # ComfyUI's own
    SCHEDULERS = ["simple", "normal"]  # noqa: RUF012
