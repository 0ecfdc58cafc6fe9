"""The door that ComfyUI opens when this folder lies in its custom_nodes."""

try:
    # Any other importer (pytest, a packaging tool) finds a package without nodes instead of an error.
    import comfy.utils  # noqa: F401
except ImportError:
    __all__ = []
else:
    from .src.comfy_gpu_offload.nodes import comfy_entrypoint

    WEB_DIRECTORY = "./web"

    __all__ = ["WEB_DIRECTORY", "comfy_entrypoint"]
