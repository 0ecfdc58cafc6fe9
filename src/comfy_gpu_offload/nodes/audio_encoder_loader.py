"""The node Remote Audio Encoder Loader: an audio encoder whose network runs on the worker."""

from __future__ import annotations

from comfy_api.v0_0_2 import io

from ..comfyui.client import auxiliary_loader, loader
from ..comfyui.client.model_lists import AUDIO_ENCODERS
from .inputs import WorkerList
from .loading import is_chosen, load, use_runpod_input

_THING = "audio encoder"


class RemoteAudioEncoderLoader(io.ComfyNode):  # type: ignore[misc]  # ComfyUI is untyped
    """An audio encoder that runs on the configured worker, or the same file loaded here."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Describe the node to ComfyUI."""
        schema = io.Schema(
            node_id="RemoteAudioEncoderLoader",
            display_name="Remote Audio Encoder Loader",
            category="loaders/remote",
            description="Loads an audio encoder (wav2vec, Whisper) on the worker. Connect it to "
            "AudioEncoderEncode, for sound to video.",
            inputs=[
                use_runpod_input(_THING),
                WorkerList(
                    "audio_encoder_name",
                    AUDIO_ENCODERS,
                    "A file in the worker's audio_encoders folder. The button asks the worker for its list.",
                ),
            ],
            outputs=[io.AudioEncoder.Output(tooltip="The audio encoder, for AudioEncoderEncode.")],
            hidden=[io.Hidden.unique_id],
        )
        # ComfyUI 0.3.64 has no such field, and searches no aliases.
        schema.search_aliases = ["remote", "offload", "runpod", "audio encoder", "wav2vec", "whisper"]
        return schema

    @classmethod
    def validate_inputs(cls, audio_encoder_name: str) -> bool | str:
        """Return True, or what is wrong with the inputs."""
        return is_chosen(audio_encoder_name, _THING)

    @classmethod
    def fingerprint_inputs(cls, use_runpod: bool | None = None, **_: object) -> float:
        """Return another value once the worker, or what was loaded from it, is another."""
        return loader.version(use_runpod)

    @classmethod
    def execute(cls, audio_encoder_name: str, use_runpod: bool) -> io.NodeOutput:
        """Load the audio encoder.

        Raises:
            OffloadError: it cannot be loaded.
        """
        return load(
            _THING,
            cls.hidden.unique_id,
            remotely=use_runpod,
            here=lambda: auxiliary_loader.load_local_audio_encoder(audio_encoder_name),
            there=lambda: auxiliary_loader.load_remote_audio_encoder(audio_encoder_name),
        )
