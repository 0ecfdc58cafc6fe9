"""The stand-in for ComfyUI's library."""
