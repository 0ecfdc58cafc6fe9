"""Everything that knows ComfyUI: the client's side, the worker's side, and what they say to each other."""
