"""The name of a module's method in a call, and the methods of diffusion models beside their forward pass."""

# The keyword argument that names the method; the method itself never sees it.
METHOD = "network_method"
# The method of a call without that argument.
FORWARD = "forward"
# `comfy.model_base` calls these of a network while it makes conditioning ready, once for each condition of a run.
METHODS = frozenset({"preprocess_text_embeds"})
