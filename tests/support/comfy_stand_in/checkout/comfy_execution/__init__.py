"""ComfyUI's execution of prompts."""
