"""The form of a ControlNet that runs at the worker, in a call and in a whole run, with its checks.

In a call, `control` is ``{"__control_net__": {...}}`` with the fields of `AppliedNet` and of `CallInputs`, and
``previous``: residuals computed at the client, another such dict, or None. In a run's tree, ``control_nets`` is a
list of dicts with the fields of `AppliedNet`, ``start``, ``end`` and ``previous``, a place earlier in the list;
``control`` in conditioning is a place in it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Self

import torch

from ...backends.base import ModelRunError
from .picture_values import unpack_picture

# Before the name of a ControlNet's file, in a request for the module.
PREFIX = "controlnet:"
KEY = "__control_net__"
# What SD 3.5's ControlNets make of a picture before a VAE encodes it: comfy.controlnet, load_controlnet_sd35.
PREPROCESSING: Mapping[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "none": lambda image: image,
    "canny": lambda image: image * 255 * 0.5 + 0.5,
    "depth": lambda image: 1.0 - image,
}

MAX_CHAIN = 16
_MAX_STRENGTH = 1000.0
_MAX_SIDE = 16_384
_MAX_VALUES = 2**30
_MAX_MASKS = 8
_MAX_TYPES = 64
# Set by an older release in pictures whose channels are the last dimension.
_FORMER = "channels_last"


@dataclass(frozen=True)
class AppliedNet:
    """A ControlNet as an Apply node set it up.

    Attributes:
        net: the name of its file, in the worker's list.
        fingerprint: of that file.
        strength: finite.
        control_type: of a union ControlNet, or None where it was not set.
        hint: `[N, C, H, W]`: a picture as 255ths in uint8, or as numbers from 0 to 1; or, if `encoded`, a VAE's
            latent of it, `[N, C, …, H, W]`.
        masks: put beside the hint, each `[N, 1, H, W]`.
    """

    net: str
    fingerprint: str
    strength: float
    control_type: list[int] | None
    hint: torch.Tensor
    encoded: bool
    masks: list[torch.Tensor]

    @classmethod
    def of(cls, fields: Mapping[str, Any]) -> Self:
        """Check fields that came from a client; those of a call or a run are not looked at.

        Raises:
            ModelRunError: it is not of this form; names the field.
        """
        if fields.get(_FORMER):
            raise _bad(_FORMER)
        return cls(**_checked(fields, _OF_NET))

    @property
    def picture(self) -> torch.Tensor:
        """Return the hint as the control net takes it."""
        return unpack_picture(self.hint)


@dataclass(frozen=True)
class CallInputs:
    """The inputs of a call's ControlNet.

    Attributes:
        x: the latent as the ControlNet reads it, `[B, C, …]`; None for one that looks at the size alone.
        timestep: `[B]`, as the model counts.
        context, conds: conditioning, by ComfyUI's names.
        chunks: the number of conditions side by side in the batch.
    """

    x: torch.Tensor | None
    timestep: torch.Tensor
    context: torch.Tensor | None
    conds: dict[str, torch.Tensor]
    chunks: int

    @classmethod
    def of(cls, fields: Mapping[str, Any]) -> Self:
        """Check fields as `AppliedNet.of` does.

        Raises:
            ModelRunError: it is not of this form; names the field.
        """
        return cls(**_checked(fields, _OF_CALL))


@dataclass(frozen=True)
class RunNet:
    """A ControlNet of a whole run: on from `start` to `end` of it, after the one at the place `previous`."""

    applied: AppliedNet
    start: float
    end: float
    previous: int | None

    @classmethod
    def table(cls, value: Any) -> list[Self]:
        """Check a run's ``control_nets``.

        Raises:
            ModelRunError: it is not of this form; names the field.
        """
        if not isinstance(value, list) or len(value) > 1024:
            raise ModelRunError(
                "The ControlNets of the run are not of the form known here: use the same release on both sides."
            )
        return [cls._of(entry, place) for place, entry in enumerate(value)]

    @classmethod
    def _of(cls, fields: Any, place: int) -> Self:
        further = _checked(_mapping(fields), _OF_RUN)
        previous = further["previous"]
        if previous is not None and previous >= place:
            raise _bad("previous")
        return cls(AppliedNet.of(fields), **further)


def remote_net_fields(control: Any) -> dict[str, Any] | None:
    """Return the fields of a ControlNet in a call's `control`, or None where that holds residuals or nothing.

    Raises:
        ModelRunError: it is of no form.
    """
    if not isinstance(control, dict) or KEY not in control:
        return None
    return dict(_mapping(control[KEY]))


def _mapping(value: Any) -> Mapping[str, Any]:
    if not isinstance(value, dict) or not all(isinstance(key, str) for key in value):
        raise _bad("form")
    return value


def _checked(fields: Mapping[str, Any], checks: Mapping[str, Callable[[Any], bool]]) -> dict[str, Any]:
    for name, check in checks.items():
        if name not in fields or not check(fields[name]):
            raise _bad(name)
    return {name: fields[name] for name in checks}


def _bad(field: str) -> ModelRunError:
    return ModelRunError(f"A remote ControlNet has no proper {field}: use the same release on both sides.")


def _is_name(value: Any) -> bool:
    return isinstance(value, str) and 0 < len(value) <= 256


def _is_net(value: Any) -> bool:
    # With the prefix it has to be a name that a message can carry.
    return _is_name(value) and len(PREFIX) + len(value) <= 256


def _is_strength(value: Any) -> bool:
    return type(value) is float and math.isfinite(value) and abs(value) <= _MAX_STRENGTH


def _is_share(value: Any) -> bool:
    return type(value) is float and 0.0 <= value <= 1.0


def _is_types(value: Any) -> bool:
    if value is None:
        return True
    return isinstance(value, list) and len(value) <= _MAX_TYPES and all(_is_count(kind) for kind in value)


def _is_count(value: Any) -> bool:
    return type(value) is int and 0 <= value < 1024


def _is_picture(value: Any) -> bool:
    if not isinstance(value, torch.Tensor) or not 4 <= value.dim() <= 5:
        return False
    bounded = 0 < value.numel() <= _MAX_VALUES and max(value.shape) <= _MAX_SIDE
    return bounded and (value.is_floating_point() or value.dtype is torch.uint8)


def _is_masks(value: Any) -> bool:
    return isinstance(value, list) and len(value) <= _MAX_MASKS and all(map(_is_picture, value))


def _is_tensor(value: Any) -> bool:
    return isinstance(value, torch.Tensor)


def _is_latent(value: Any) -> bool:
    return value is None or (_is_tensor(value) and value.dim() >= 3 and value.is_floating_point())


def _is_conds(value: Any) -> bool:
    return isinstance(value, dict) and all(_is_name(key) and _is_tensor(item) for key, item in value.items())


_OF_NET: Mapping[str, Callable[[Any], bool]] = {
    "net": _is_net,
    "fingerprint": _is_name,
    "strength": _is_strength,
    "control_type": _is_types,
    "hint": _is_picture,
    "encoded": lambda value: isinstance(value, bool),
    "masks": _is_masks,
}
_OF_CALL: Mapping[str, Callable[[Any], bool]] = {
    "x": _is_latent,
    "timestep": lambda value: _is_tensor(value) and value.dim() == 1 and value.numel() > 0,
    "context": lambda value: value is None or _is_tensor(value),
    "conds": _is_conds,
    "chunks": lambda value: _is_count(value) and value > 0,
}
_OF_RUN: Mapping[str, Callable[[Any], bool]] = {
    "start": _is_share,
    "end": _is_share,
    "previous": lambda value: value is None or _is_count(value),
}
