"""The address under which RunPod's proxy reaches a port of a pod."""

from __future__ import annotations

from ...config.address import Address


def pod_address(template: str, pod_id: str, port: int) -> Address:
    """Return the address of a pod's port, by the setting COMFY_GPU_OFFLOAD_RUNPOD_POD_ADDRESS.

    It is public: whoever knows the pod's id reaches it, so the worker there needs a token.
    """
    return Address.parse(template.replace("{pod}", pod_id).replace("{port}", str(port)))
