"""The client's side of ComfyUI: stand-ins for models whose weights are at a worker."""
