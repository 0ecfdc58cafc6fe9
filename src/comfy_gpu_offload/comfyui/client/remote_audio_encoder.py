"""An AUDIO_ENCODER whose network is at the worker: ComfyUI's own class, whose `encode_audio` runs there."""

from __future__ import annotations

from typing import Any, NoReturn

import comfy.model_management
import torch
from comfy.audio_encoders.audio_encoders import AudioEncoderModel

from ...client.remote_model import RemoteModel
from ...errors import MessageError, RemoteWeightsError
from ...io.tree import map_tensors
from ..wire.audio_encoder_calls import ENCODE, SAMPLE_RATE, is_result
from .remote_module import EmptyNetwork, ModuleCalls, RemoteModulePatcher

# What ComfyUI's method reads of the object as it runs, which is at the worker.
_READ_THERE = (SAMPLE_RATE, "dtype", "load_device")


class RemoteAudioEncoder(AudioEncoderModel):  # type: ignore[misc]  # ComfyUI is untyped
    """An audio encoder whose network is at the worker.

    Raises:
        MessageError: the worker's description is malformed.
    """

    def __init__(self, remote: RemoteModel) -> None:
        facts: Any = remote.details.get("audio_encoder") if isinstance(remote.details, dict) else None
        if not isinstance(facts, dict) or facts.keys() != {"dtype", SAMPLE_RATE}:
            raise MessageError("the worker's description of the audio encoder is not of the expected form")
        if not isinstance(facts["dtype"], torch.dtype) or type(facts[SAMPLE_RATE]) is not int:
            raise MessageError("the worker's description of the audio encoder has invalid facts")
        management: Any = comfy.model_management
        self.remote = remote
        self.dtype = facts["dtype"]
        self.model_sample_rate = facts[SAMPLE_RATE]
        self.load_device = management.text_encoder_device()
        self.model = EmptyNetwork(remote)
        self.patcher: Any = RemoteModulePatcher(
            self.model, self.load_device, management.text_encoder_offload_device()
        )
        self._calls = ModuleCalls(remote, self, "model", _READ_THERE)
        self._calls.stand_in({}, AudioEncoderModel, RemoteAudioEncoder)

    def encode_audio(self, audio: torch.Tensor, sample_rate: int) -> dict[str, Any]:
        """Return ComfyUI's output for a waveform [B, C, N] of so many samples per second.

        Raises:
            UnsupportedPatchError: something of the encoder has been changed that the worker does not see.
        """
        result = self._calls.ask(ENCODE, (audio, int(sample_rate)), {})
        if not is_result(result):
            raise MessageError("the worker's result of an audio encoder is not of the expected form")
        placed: dict[str, Any] = map_tensors(result, lambda tensor: tensor.to(self.load_device))
        return placed

    def load_sd(self, sd: Any) -> NoReturn:
        """Refuse: the weights are at the worker.

        Raises:
            RemoteWeightsError: always.
        """
        raise RemoteWeightsError(self.remote.description.ref.name, "to put others in their place")

    def get_sd(self) -> NoReturn:
        """Refuse: the weights are at the worker.

        Raises:
            RemoteWeightsError: always.
        """
        raise RemoteWeightsError(self.remote.description.ref.name, "to save them")

    def __deepcopy__(self, memo: Any) -> NoReturn:
        """Refuse to copy the network: a node would change the copy.

        Raises:
            RemoteWeightsError: always.
        """
        raise RemoteWeightsError(self.remote.description.ref.name, "to copy the network")
