"""Audio encoders (wav2vec 2.0, Whisper), whose `encode_audio` runs as a whole."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Self

import torch

from ....backends.base import ModelRunError
from ...installation.audio_encoder_files import AUDIO_ENCODERS, load_audio_encoder
from ...wire.audio_encoder_calls import ENCODE, PREFIX, SAMPLE_RATE, is_result
from .runnable_module import LoadModule, MethodCall, ModuleFiles, RunnableModule

_HIGHEST_RATE = 10**6


def _check(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
    fits = (
        len(args) == 2
        and isinstance(args[0], torch.Tensor)
        and args[0].dim() == 3
        and type(args[1]) is int
        and 0 < args[1] <= _HIGHEST_RATE
        and not kwargs
    )
    if not fits:
        raise ModelRunError("An audio encoder takes a waveform and its sample rate: use one release on both sides.")


class AudioEncoder(RunnableModule):
    """An audio encoder in memory.

    Args:
        encoder: ComfyUI's.
    """

    prefix = PREFIX
    files = AUDIO_ENCODERS
    methods = {ENCODE: _check}  # noqa: RUF012

    def __init__(self, encoder: Any) -> None:
        self._encoder = encoder
        self._patcher = encoder.patcher

    @classmethod
    def load(cls, found: ModuleFiles) -> Self:
        """See `RunnableModule`."""
        found.refuse_weight_dtype("audio encoders")
        return cls(load_audio_encoder(found.files[0]))

    @classmethod
    def prepare(
        cls, method: str, args: tuple[Any, ...], kwargs: Mapping[str, Any], load: LoadModule, *, autocast: bool
    ) -> MethodCall:
        """See `RunnableModule`."""
        cls.methods[method](args, kwargs)
        return _EncodeCall(method, args, kwargs)

    def patchers(self) -> list[Any]:
        """See `RunnableModule`."""
        return [self._patcher]

    def callee(self, patcher: Any) -> Any:
        """Return ComfyUI's encoder, whose weights are those of `patcher`."""
        self._encoder.patcher = patcher
        return self._encoder

    def network(self) -> torch.nn.Module:
        """See `RunnableModule`."""
        network: torch.nn.Module = self._encoder.model
        return network

    def compute_dtype(self) -> torch.dtype:
        """Return float32: ComfyUI's audio encoders compute in it, whatever their weights are kept in."""
        return torch.float32

    def describe(self, name: str) -> dict[str, Any]:
        """Return what a client builds its AUDIO_ENCODER from: `comfyui.client.remote_audio_encoder`."""
        rate = int(self._encoder.model_sample_rate)
        return {"audio_encoder": {"dtype": self._encoder.dtype, SAMPLE_RATE: rate}}


@dataclass(frozen=True)
class _EncodeCall(MethodCall):
    """A call of ComfyUI's `encode_audio`."""

    def moved(self, device: torch.device) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """Return the arguments on the CPU, where ComfyUI resamples."""
        return self.args, {}

    def bind(
        self, module: RunnableModule, patcher: Any, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Callable[[], Any]:
        """See `MethodCall`."""
        encoder = module.callee(patcher)

        def run() -> Any:
            result = encoder.encode_audio(*args)
            if not is_result(result):
                raise ModelRunError("This audio encoder gives a result that cannot be sent: update the worker.")
            return result

        return run
