"""The release, as pyproject.toml states it (a test compares the two).

Not read from installed metadata: ComfyUI loads the pack from a folder that was never installed.
"""

__version__ = "0.1.0"
