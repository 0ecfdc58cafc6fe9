"""The client's side of ComfyUI: a stand-in for a model whose weights are elsewhere."""
