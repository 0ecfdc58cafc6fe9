"""CLIP vision."""


class Output:
    """The output of CLIP vision for a picture."""
