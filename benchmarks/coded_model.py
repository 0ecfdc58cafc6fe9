"""The digits model behind a codec: its inputs and outputs are encoded and decoded, as over a network."""

from __future__ import annotations

import torch

from comfy_gpu_offload.digits.sampling import TIMESTEPS, Model
from comfy_gpu_offload.io import codecs
from comfy_gpu_offload.io.buffers import tensor_bytes, tensor_from
from comfy_gpu_offload.io.dtypes import NAMES


class CodedModel:
    """A model whose latents and predictions go through `codec`, with counts of `elements` and `bytes`."""

    def __init__(self, model: Model, codec: codecs.Codec | codecs.Chooser) -> None:
        self.codec = codec
        self._model = model
        self.elements = self.bytes = 0

    def predict(self, x: torch.Tensor, sigma: float, context: torch.Tensor, pooled: torch.Tensor) -> torch.Tensor:
        """Return the velocity for `x` `[2B, 16, 8, 8]`, of the same shape, as it comes back."""
        (prediction,) = self._model(
            hidden_states=self._cross(x),
            timestep=torch.full((len(x),), sigma * TIMESTEPS),
            encoder_hidden_states=context,
            pooled_projections=pooled,
            return_dict=False,
        )
        return self._cross(prediction)

    def _cross(self, tensor: torch.Tensor) -> torch.Tensor:
        dtype, shape = NAMES[tensor.dtype], tuple(tensor.shape)
        used, payload = codecs.encode(self.codec, tensor_bytes(tensor), dtype, shape)
        self.elements += tensor.numel()
        self.bytes += len(payload)
        data = used.decode(memoryview(bytearray(payload)), tensor.nbytes, dtype, shape)
        return tensor_from(data, tensor.dtype, shape)
