"""A worker's description of a CLIP vision model, checked, and ComfyUI's own object without weights for it."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import Any

import comfy.clip_vision
import torch

from ...client.remote_model import RemoteModel
from ...errors import MessageError, OffloadError
from ..wire.file_contents import FileContents, LargeTensor


@dataclass(frozen=True)
class ClipVisionFacts:
    """A worker's description of a CLIP vision model, checked.

    Attributes:
        weights: of its network, by the network's own keys.
        dtype: that it keeps them in.
    """

    weights: FileContents
    dtype: torch.dtype

    @classmethod
    def of(cls, remote: RemoteModel) -> ClipVisionFacts:
        """Return a worker's description of a CLIP vision model, checked.

        Raises:
            MessageError: the details are not of this form.
        """
        details = remote.details
        if not isinstance(details, dict) or set(details) != {"files", "clip_vision"}:
            raise MessageError("the worker's description of the CLIP vision model is not of the expected form")
        files, facts = details["files"], details["clip_vision"]
        if not isinstance(files, list) or len(files) != 1:
            raise MessageError("the worker's description of the CLIP vision model has no file")
        if not isinstance(facts, dict) or set(facts) != {"dtype"} or not isinstance(facts["dtype"], torch.dtype):
            raise MessageError("the worker's description of the CLIP vision model has invalid facts")
        return cls(FileContents.read(files[0]), facts["dtype"])


class _Weightless(comfy.clip_vision.ClipVisionModel):  # type: ignore[misc]  # ComfyUI is untyped
    """ComfyUI's class, whose network takes the weights that it is given in place of copying them."""

    def load_sd(self, sd: dict[str, torch.Tensor]) -> Any:
        """Put tensors without data in the place of the network's weights, whose memory was never written to."""
        return self.model.load_state_dict(sd, strict=False, assign=True)


def build_clip_vision(facts: ClipVisionFacts) -> Any:
    """Return a `comfy.clip_vision.ClipVisionModel` with its weights on the meta device.

    Raises:
        OffloadError: this ComfyUI does not know such a model, or builds it differently.
    """
    kind = comfy.clip_vision.ClipVisionModel
    comfy.clip_vision.ClipVisionModel = _Weightless
    try:
        # Tensors made in inference mode have no version counter, by which writes to them are noticed.
        with torch.inference_mode(False), torch.no_grad(), warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)
            made = comfy.clip_vision.load_clipvision_from_sd(facts.weights.state_dict(_no_large))
    except (RuntimeError, TypeError, ValueError, KeyError, AttributeError, UnboundLocalError) as error:
        raise _skew(f"cannot build it ({type(error).__name__}: {str(error)[:200]})") from error
    finally:
        comfy.clip_vision.ClipVisionModel = kind
    if made is None:
        raise _skew("does not know it")
    built = {key: tuple(weight.shape) for key, weight in made.model.state_dict().items()}
    if built != {key: shape for key, (shape, _) in facts.weights.keys.items()}:
        raise _skew("builds it with other weights")
    made.dtype = facts.dtype
    return made


def _no_large(_: LargeTensor) -> torch.Tensor:
    raise MessageError("the worker's description of the CLIP vision model has a tensor that no such model has")


def _skew(why: str) -> OffloadError:
    return OffloadError(
        f"The worker's CLIP vision model cannot be used here, because this ComfyUI {why}. Use the same ComfyUI "
        "release on both sides."
    )
