"""ComfyUI's `utils` package."""
