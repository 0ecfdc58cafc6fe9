"""The skeleton of a remote model: ComfyUI's own model class without weights, built from a worker's description.

It is made on the meta device, so it takes a few MB and still answers ComfyUI and nodes as the real model would
(docs/comfyui.md).
"""

from __future__ import annotations

import logging
from dataclasses import dataclass, field
from typing import Any

import comfy.model_base
import comfy.supported_models
import comfy.supported_models_base
import comfy.utils
import torch

from ...errors import MessageError, OffloadError
from ..wire.auxiliary_weights import named_as_in_file

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class WorkerModel:
    """A `comfyui` worker's description of a model, checked.

    Attributes:
        config_class: the name of a class of `comfy.supported_models`.
        unet_config: that config's, as ComfyUI has detected it.
        sampling_settings: the same.
        model_type: the name of a `comfy.model_base.ModelType`.
        weight_dtype: the dtype of the weights in memory.
        manual_cast_dtype: the dtype that they are cast to for computing, or None for no cast.
        keys: shape and dtype of every entry of the network's state dict.
        beside: the weights of the model's parts other than the network (`auxiliary_weights`).
    """

    config_class: str
    unet_config: dict[str, Any]
    sampling_settings: dict[str, Any]
    model_type: str
    weight_dtype: torch.dtype
    manual_cast_dtype: torch.dtype | None
    keys: dict[str, tuple[tuple[int, ...], torch.dtype]]
    beside: dict[str, torch.Tensor] = field(default_factory=dict)

    @classmethod
    def of(cls, details: Any) -> WorkerModel:
        """Return a worker's description of a model, checked.

        Raises:
            OffloadError: the worker runs another backend.
            MessageError: the details are not of this form.
        """
        if isinstance(details, dict) and "config" in details:
            raise OffloadError(
                "The worker runs the diffusers backend, whose models ComfyUI cannot use. Start it with "
                "`worker --backend comfyui --comfyui PATH`."
            )
        if not isinstance(details, dict) or set(details) - {"beside"} != set(_FORM):
            raise MessageError("the worker's description of the model is not of the expected form")
        for name, kinds in {**_FORM, "beside": (dict,)}.items():
            if name in details and not isinstance(details[name], kinds):
                raise MessageError(f"the worker's description of the model has no valid {name}")
        if not all(_is_key(key, entry) for key, entry in details["keys"].items()):
            raise MessageError("the worker's description of the model has invalid keys")
        if not all(_is_weight(name, weight) for name, weight in details.get("beside", {}).items()):
            raise MessageError("the worker's description of the model has invalid weights")
        return cls(**details)


_FORM: dict[str, tuple[type, ...]] = {
    "config_class": (str,),
    "unet_config": (dict,),
    "sampling_settings": (dict,),
    "model_type": (str,),
    "weight_dtype": (torch.dtype,),
    "manual_cast_dtype": (torch.dtype, type(None)),
    "keys": (dict,),
}


def _is_key(key: Any, entry: Any) -> bool:
    return (
        isinstance(key, str)
        and isinstance(entry, tuple)
        and len(entry) == 2
        and isinstance(entry[0], tuple)
        and all(type(size) is int and size >= 0 for size in entry[0])
        and isinstance(entry[1], torch.dtype)
    )


def _is_weight(name: Any, weight: Any) -> bool:
    return isinstance(name, str) and isinstance(weight, torch.Tensor)


def build_skeleton(worker: WorkerModel) -> Any:
    """Return a ComfyUI `BaseModel` of the described kind, with its network on the meta device.

    Raises:
        OffloadError: this ComfyUI does not know the model, or builds it differently.
    """
    config = _config(worker)
    model_type = getattr(comfy.model_base.ModelType, worker.model_type, None)
    if model_type is None:
        raise _skew(worker, f"has no model type {worker.model_type}")
    # Some configs derive these from the values of weights, which only the worker has.
    config.model_type = lambda *_, **__: model_type
    config.sampling_settings = dict(worker.sampling_settings)
    config.set_inference_dtype(worker.weight_dtype, worker.manual_cast_dtype)
    try:
        model = _on_meta(config, meta_state_dict(worker) | named_as_in_file(worker.beside))
        _put_beside(model, worker.beside)
    except (RuntimeError, TypeError, ValueError, KeyError, AttributeError) as error:
        raise _skew(worker, f"cannot build it ({type(error).__name__}: {str(error)[:200]})") from error
    return model


def _on_meta(config: Any, state_dict: dict[str, torch.Tensor]) -> Any:
    # The model's other parts change their weights in place as they are built, which torch forbids with gradients.
    with torch.no_grad():
        try:
            return config.get_model(state_dict, "", device="meta")
        except RuntimeError:
            # Some networks compute with a few numbers as they are built (ACE-Step 1.5), so they need a real device.
            # ComfyUI leaves the weights uninitialised, and memory that is never written to takes no room.
            model = config.get_model(state_dict, "", device="cpu")
            model.diffusion_model.to("meta")
            return model


def _put_beside(model: Any, weights: dict[str, torch.Tensor]) -> None:
    """Fill in the weights of the model's other parts.

    Some releases build such parts (Zero123's projection) on the network's device, which is the meta device here.
    """
    for name, weight in weights.items():
        if comfy.utils.get_attr(model, name).is_meta:
            comfy.utils.set_attr_param(model, name, weight)


def meta_state_dict(worker: WorkerModel) -> dict[str, torch.Tensor]:
    """Return the network's state dict with the worker's keys, shapes and dtypes, on the meta device."""
    return {key: torch.empty(shape, dtype=dtype, device="meta") for key, (shape, dtype) in worker.keys.items()}


def _config(worker: WorkerModel) -> Any:
    kind = getattr(comfy.supported_models, worker.config_class, None)
    # The name comes from the worker: only a model config may be built by it.
    if not isinstance(kind, type) or not issubclass(kind, comfy.supported_models_base.BASE):
        raise _skew(worker, "does not know that class")
    return kind(dict(worker.unet_config))


def _skew(worker: WorkerModel, why: str) -> OffloadError:
    return OffloadError(
        f"The worker's model, a {worker.config_class}, cannot be used here, because this ComfyUI {why}. Use the "
        "same ComfyUI release on both sides."
    )
