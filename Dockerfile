# A worker for RunPod's queue and load-balancing endpoints, for pods, and for any machine with an NVIDIA GPU:
#   docker build --platform linux/amd64 -t NAME .
# from the repository's root, where RunPod's Hub looks for it too. A release publishes it on ghcr.io
# (.github/workflows/release.yml), so nobody has to build it. worker/README.md says how to deploy it.

# `base` alone, because PyTorch's wheels bring CUDA and cuDNN along; what the image adds is the check that the host's
# driver is new enough. 12.8 is the first CUDA for Blackwell (RTX 5090, B200) and still runs on Ampere and Ada.
ARG CUDA_IMAGE=nvidia/cuda:12.8.1-base-ubuntu24.04
FROM ${CUDA_IMAGE}

LABEL org.opencontainers.image.source=https://github.com/comfy-gpu-offload/comfy-gpu-offload \
    org.opencontainers.image.licenses=GPL-3.0-or-later

ENV DEBIAN_FRONTEND=noninteractive \
    PIP_DISABLE_PIP_VERSION_CHECK=1 \
    PIP_NO_CACHE_DIR=1 \
    PYTHONUNBUFFERED=1 \
    VIRTUAL_ENV=/opt/venv \
    PATH=/opt/venv/bin:$PATH

RUN apt-get update \
    && apt-get install --yes --no-install-recommends ca-certificates git python3.12 python3.12-venv \
    && rm -rf /var/lib/apt/lists/*

# ComfyUI, and the PyTorch it runs on: the largest layer, and the one that changes least. comfy-cli gets an environment
# of its own, which is gone afterwards; it installs into VIRTUAL_ENV. Both sides should run the same ComfyUI. Compiled
# here, because a worker cannot write there and would compile it at every start.
ARG COMFYUI_VERSION=0.33.0
ARG COMFY_CLI_VERSION=1.23.0
ARG TORCH_CUDA_VERSION=12.8
RUN python3.12 -m venv /opt/venv \
    && python3.12 -m venv /opt/comfy-cli \
    && /opt/comfy-cli/bin/pip install "comfy-cli==${COMFY_CLI_VERSION}" \
    && DO_NOT_TRACK=1 /opt/comfy-cli/bin/comfy --skip-prompt --workspace /comfyui install \
        --version "${COMFYUI_VERSION}" --nvidia --cuda-version "${TORCH_CUDA_VERSION}" --skip-manager \
    && test -f /comfyui/comfyui_version.py \
    && python -m compileall -q /comfyui/comfy \
    && rm -rf /opt/comfy-cli /comfyui/.git

# What the worker needs besides; before its code, which changes more often.
COPY requirements.txt /tmp/requirements.txt
COPY worker/requirements.txt /tmp/worker-requirements.txt
RUN pip install -r /tmp/requirements.txt -r /tmp/worker-requirements.txt

# Not root, as far as the image decides; a volume whose files only root may read needs --build-arg WORKER_USER=root.
# ComfyUI makes these folders when it is imported.
ARG WORKER_USER=worker
RUN useradd --system --create-home --uid 10001 worker \
    && mkdir -p /comfyui/input /comfyui/output /comfyui/temp /comfyui/user /comfyui/models \
    && chown -R worker:worker /comfyui/input /comfyui/output /comfyui/temp /comfyui/user /comfyui/models

COPY worker/extra_model_paths.yaml /comfyui/extra_model_paths.yaml
COPY pyproject.toml README.md LICENSE /tmp/package/
COPY src /tmp/package/src
RUN pip install --no-deps /tmp/package && rm -rf /tmp/package
COPY worker /app/worker
COPY worker/test_input.json /app/test_input.json
COPY src/comfy_gpu_offload/rental/start.sh /app/start.sh
RUN python -m compileall -q /app/worker

ENV COMFY_GPU_OFFLOAD_SERVE=queue \
    COMFY_GPU_OFFLOAD_BACKEND=comfyui \
    COMFY_GPU_OFFLOAD_COMFYUI=/comfyui
WORKDIR /app
USER ${WORKER_USER}
EXPOSE 8288
# The worker takes the script's place unless it is to leave by itself, so that it gets SIGTERM. No ENTRYPOINT, which a
# pod's own command could not replace.
CMD ["sh", "/app/start.sh"]
