"""The command line: `comfy-gpu-offload …`, also as `python -m comfy_gpu_offload …`."""
