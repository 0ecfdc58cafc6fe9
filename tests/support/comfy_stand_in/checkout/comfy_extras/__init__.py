"""Some of ComfyUI's own nodes."""
