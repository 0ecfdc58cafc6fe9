"""The ComfyUI that is installed on this machine: its import, its release, its nodes and its model files."""
