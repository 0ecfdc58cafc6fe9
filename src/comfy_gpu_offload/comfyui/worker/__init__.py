"""The comfyui backend: a worker that loads, patches and runs models by ComfyUI's own code."""
