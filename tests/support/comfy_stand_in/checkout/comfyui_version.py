"""The stand-in's release."""

__version__ = "0.0.0+stand-in"
