"""Tensors as prediction sees them, and the two ends of a history."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch

from comfy_gpu_offload.io.buffers import tensor_bytes
from comfy_gpu_offload.io.dtypes import NAMES
from comfy_gpu_offload.prediction.coded_tensor import CodedTensor
from comfy_gpu_offload.prediction.history import History, HistoryEntry
from comfy_gpu_offload.prediction.latent import LatentBytes, Layout, layout_of


def seen(tensor: torch.Tensor) -> LatentBytes:
    """Return the tensor as client and server hand it to a history."""
    return LatentBytes(tensor_bytes(tensor), NAMES[tensor.dtype], tuple(tensor.shape))


def layout(tensor: torch.Tensor) -> Layout:
    """Return the layout of an input that has one."""
    found = layout_of(seen(tensor))
    assert found is not None
    return found


@dataclass
class Ends:
    """A client's history and its worker's, through which calls go as over a wire.

    Attributes:
        inputs, outputs: what travelled in place of each, None where it went as it was.
    """

    client: History
    worker: History
    inputs: list[CodedTensor | None] = field(default_factory=list)
    outputs: list[CodedTensor | None] = field(default_factory=list)

    @classmethod
    def of(cls, tensor: torch.Tensor) -> Ends:
        """Empty ones, for inputs like this one."""
        return cls(History(layout(tensor)), History(layout(tensor)))

    def ask(self, tensor: torch.Tensor) -> tuple[HistoryEntry, HistoryEntry]:
        """Make the call at both ends; assert that its input arrives."""
        given = seen(tensor)
        match = self.client.match(given)
        here, encoded = (
            (self.client.take_input(given), None) if match is None else self.client.encode_input(given, match)
        )
        self.inputs.append(encoded)
        if encoded is None:
            return here, self.worker.take_input(given)
        there, data = self.worker.decode_input(encoded.coded, memoryview(encoded.payload))
        assert data == given.data
        return here, there

    def answer(self, calls: tuple[HistoryEntry, HistoryEntry], tensor: torch.Tensor) -> None:
        """End the call; assert that its output arrives."""
        here, there = calls
        given = seen(tensor)
        encoded = self.worker.encode_output(there, given)
        self.outputs.append(encoded)
        if encoded is None:
            self.client.take_output(here, given)
        else:
            assert self.client.decode_output(here, encoded.coded, memoryview(encoded.payload)) == given.data
        self.client.add(here)
        self.worker.add(there)
