"""A ComfyUI model without weights, built from what a worker says of its own.

The skeleton is ComfyUI's own class for the model, made on the meta device: everything that ComfyUI or a node
asks of a model is answered as the real one would, at the price of a few MB (docs/comfyui.md).
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
from ..wire.auxiliary_weights import as_in_file

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class WorkerModel:
    """What a `comfyui` worker says of a model, checked.

    Attributes:
        config_class: a class of `comfy.supported_models`.
        unet_config, sampling_settings: as that config has them after detection.
        model_type: a name of `comfy.model_base.ModelType`.
        weight_dtype, manual_cast_dtype: what the weights are kept and computed in; None for the same.
        keys: shape and dtype of every entry of the network's state dict.
        beside: the weights that are not the network's (`auxiliary_weights`).
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
        """Checks what came from a worker.

        Raises:
            OffloadError: the worker runs another backend.
            MessageError: the details are not of this form.
        """
        if isinstance(details, dict) and "config" in details:
            raise OffloadError(
                "This worker runs the diffusers backend, whose models are no ComfyUI models. Start it with "
                "`worker --backend comfyui --comfyui PATH`."
            )
        if not isinstance(details, dict) or set(details) - {"beside"} != set(_FORM):
            raise MessageError("the worker's description of the model is not of the form known here")
        for name, kinds in {**_FORM, "beside": (dict,)}.items():
            if name in details and not isinstance(details[name], kinds):
                raise MessageError(f"the worker's description of the model has no proper {name}")
        if not all(_is_key(key, entry) for key, entry in details["keys"].items()):
            raise MessageError("the worker's description of the model has keys that are none")
        if not all(_is_weight(name, weight) for name, weight in details.get("beside", {}).items()):
            raise MessageError("the worker's description of the model has weights that are none")
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
    """ComfyUI's model of that kind, its network on the meta device.

    Raises:
        OffloadError: this ComfyUI does not know the model, or knows it differently.
    """
    config = _config(worker)
    model_type = getattr(comfy.model_base.ModelType, worker.model_type, None)
    if model_type is None:
        raise _skew(worker, f"has no model type {worker.model_type}")
    # Some configs decide these by the values of weights, which are not here: the worker has decided.
    config.model_type = lambda *_, **__: model_type
    config.sampling_settings = dict(worker.sampling_settings)
    config.set_inference_dtype(worker.weight_dtype, worker.manual_cast_dtype)
    try:
        model = _on_meta(config, meta_state_dict(worker) | as_in_file(worker.beside))
        _put_beside(model, worker.beside)
    except (RuntimeError, TypeError, ValueError, KeyError, AttributeError) as error:
        raise _skew(worker, f"cannot build it ({type(error).__name__}: {str(error)[:200]})") from error
    return model


def _on_meta(config: Any, state_dict: dict[str, torch.Tensor]) -> Any:
    # Else weights beside the network, which are changed in place while they are made, would want gradients.
    with torch.no_grad():
        try:
            return config.get_model(state_dict, "", device="meta")
        except RuntimeError:
            # Some networks compute with a few numbers while they are made (ACE-Step 1.5). ComfyUI leaves weights
            # empty, and memory that is not written to costs nothing.
            model = config.get_model(state_dict, "", device="cpu")
            model.diffusion_model.to("meta")
            return model


def _put_beside(model: Any, weights: dict[str, torch.Tensor]) -> None:
    """Some releases make layers beside the network on its device (Zero123's projection), and then without data."""
    for name, weight in weights.items():
        if comfy.utils.get_attr(model, name).is_meta:
            comfy.utils.set_attr_param(model, name, weight)


def meta_state_dict(worker: WorkerModel) -> dict[str, torch.Tensor]:
    """The network's state dict as the worker has it, without data."""
    return {key: torch.empty(shape, dtype=dtype, device="meta") for key, (shape, dtype) in worker.keys.items()}


def _config(worker: WorkerModel) -> Any:
    kind = getattr(comfy.supported_models, worker.config_class, None)
    # A name from outside: nothing but a model config may be made of it.
    if not isinstance(kind, type) or not issubclass(kind, comfy.supported_models_base.BASE):
        raise _skew(worker, f"does not know {worker.config_class}")
    return kind(dict(worker.unet_config))


def _skew(worker: WorkerModel, why: str) -> OffloadError:
    return OffloadError(
        f"This ComfyUI {why}, though the worker's does: the model is a {worker.config_class}. Use the same "
        "ComfyUI release on both sides."
    )
