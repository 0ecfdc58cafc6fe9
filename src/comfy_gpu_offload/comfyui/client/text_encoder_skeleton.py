"""A CLIP without weights: built by ComfyUI's own loaders from a worker's description of the files."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import comfy.sd
import comfy.utils
import folder_paths
import torch

from ...client.remote_model import RemoteModel
from ...errors import MessageError, OffloadError
from ..wire.file_contents import MAX_FILES, FileContents, LargeTensor
from ..wire.text_encoder_calls import TYPE, weights_digest

_META, _CPU = torch.device("meta"), torch.device("cpu")


@dataclass(frozen=True)
class TextEncoderFacts:
    """A worker's description of a text encoder, checked.

    Attributes:
        files: those that it is loaded from.
        dtype: in which ComfyUI was told to keep the weights.
        weights: a digest of the keys and shapes of its weights.
        type_name: of a `comfy.sd.CLIPType`; None for the text encoder of a checkpoint.
    """

    files: list[FileContents]
    dtype: torch.dtype
    weights: bytes
    type_name: str | None

    @classmethod
    def of(cls, remote: RemoteModel) -> TextEncoderFacts:
        """Return a worker's description of a text encoder, checked.

        Raises:
            MessageError: the details are not of this form.
        """
        details = remote.details
        if not isinstance(details, dict) or set(details) != {"files", "text_encoder"}:
            raise MessageError("the worker's description of the text encoder is not of the expected form")
        files, facts = details["files"], details["text_encoder"]
        if not isinstance(files, list) or not 0 < len(files) <= MAX_FILES:
            raise MessageError("the worker's description of the text encoder has invalid files")
        valid = isinstance(facts, dict) and set(facts) == {"dtype", "weights"}
        if not valid or not isinstance(facts["dtype"], torch.dtype) or not isinstance(facts["weights"], bytes):
            raise MessageError("the worker's description of the text encoder has invalid facts")
        type_name = dict(remote.description.ref.options).get(TYPE)
        return cls([FileContents.read(file) for file in files], facts["dtype"], facts["weights"], type_name)


def build_clip(facts: TextEncoderFacts, fetch: Callable[[LargeTensor], torch.Tensor]) -> Any:
    """Return a `comfy.sd.CLIP` with its weights on the meta device, and a tokenizer that works.

    Args:
        fetch: returns a large tensor of a file, a tokenizer's vocabulary.

    Raises:
        OffloadError: this ComfyUI does not know such a text encoder, or builds it differently.
    """
    state_dicts = [file.state_dict(fetch) for file in facts.files]
    options = {
        "dtype": facts.dtype,
        "initial_device": _META,
        # On a GPU that lacks the dtype ComfyUI would move the encoder, which has nothing to move.
        "load_device": _CPU,
        "offload_device": _CPU,
    }
    try:
        if facts.type_name is None:
            clip = _of_checkpoint(state_dicts[0], facts.files[0].metadata, options)
        else:
            clip = _of_files(state_dicts, facts, options)
    except (
        RuntimeError,
        TypeError,
        ValueError,
        KeyError,
        AttributeError,
        AssertionError,
        NotImplementedError,
    ) as error:
        raise _skew(f"cannot build it ({type(error).__name__}: {str(error)[:200]})") from error
    if clip is None:
        raise _skew("finds no text encoder in the checkpoint")
    if weights_digest(clip.cond_stage_model.state_dict()) != facts.weights:
        raise _skew("builds it with other weights")
    return clip


def _of_files(state_dicts: list[dict[str, torch.Tensor]], facts: TextEncoderFacts, options: dict[str, Any]) -> Any:
    """Return what `comfy.sd.load_clip` does for files of these contents."""
    convert = getattr(comfy.utils, "convert_old_quants", None)  # of later releases
    if convert is not None:
        pairs = zip(state_dicts, facts.files, strict=True)
        state_dicts = [convert(each, model_prefix="", metadata=dict(file.metadata))[0] for each, file in pairs]
    load = comfy.sd.load_text_encoder_state_dicts
    # ComfyUI makes some modules without naming a device: a norm of the part that reads pictures, for one.
    with _META:
        return load(
            state_dicts,
            embedding_directory=folder_paths.get_folder_paths("embeddings"),
            clip_type=comfy.sd.CLIPType[facts.type_name],
            model_options=options,
            **_without_dynamic_loading(load),
        )


def _of_checkpoint(state_dict: dict[str, torch.Tensor], metadata: Any, options: dict[str, Any]) -> Any:
    load = comfy.sd.load_state_dict_guess_config
    found = load(
        state_dict,
        output_vae=False,
        output_clip=True,
        embedding_directory=folder_paths.get_folder_paths("embeddings"),
        output_model=False,
        te_model_options=options,
        metadata=dict(metadata),
        **_without_dynamic_loading(load),
    )
    return None if found is None else found[1]


def _without_dynamic_loading(function: Any) -> dict[str, bool]:
    """Return the argument that keeps later releases from their patcher for weights that are loaded as needed."""
    return {"disable_dynamic": True} if "disable_dynamic" in inspect.signature(function).parameters else {}


def _skew(why: str) -> OffloadError:
    return OffloadError(
        f"The worker's text encoder cannot be used here, because this ComfyUI {why}. Use the same ComfyUI release "
        "on both sides."
    )
