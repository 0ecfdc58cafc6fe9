"""The methods of diffusion models that a call may name beside their forward pass, and how it once named them."""

# The keyword argument that names the method in calls to and from releases without the capability ``modules``; the
# method itself never sees it.
METHOD = "network_method"
# `comfy.model_base` calls these of a network while it makes conditioning ready, once for each condition of a run.
METHODS = frozenset({"preprocess_text_embeds"})
