"""CLIP vision."""


class Output:
    """What CLIP vision made of a picture."""
