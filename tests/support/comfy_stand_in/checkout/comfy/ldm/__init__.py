"""ComfyUI's networks."""
