"""ComfyUI's patcher: a model with patches on its weights, which are computed when it is put on a device."""

from __future__ import annotations

import collections
import copy
import uuid
from typing import Any

import torch

import comfy.hooks
import comfy.utils

_Backup = collections.namedtuple("_Backup", ["weight", "inplace_update"])


def get_key_weight(model: Any, key: str) -> tuple[torch.Tensor, Any, Any]:
    """Return a weight, what writes it, and what converts it; both None for plain weights."""
    return comfy.utils.get_attr(model, key), None, None


def calculate_weight(patches: list[Any], weight: torch.Tensor) -> torch.Tensor:
    """Return a weight with these patches on it, which fit it."""
    for strength, value, strength_model, offset, function in patches:
        part = weight if offset is None else weight.narrow(*offset)
        if strength_model != 1.0:
            part *= strength_model
        if strength != 0.0:
            added = _difference(value, part)
            part += strength * (added if function is None else function(added))
    return weight


def _difference(value: Any, weight: torch.Tensor) -> torch.Tensor:
    if isinstance(value, list):
        (tensor, convert), *further = value
        return calculate_weight(further, convert(tensor.clone(), inplace=True))
    if isinstance(value, tuple):
        return value[1][0] if value[0] == "diff" else value[1][0] - weight
    return value.difference(weight)


class ModelPatcher:
    """See the module."""

    def __init__(self, model: Any, load_device: Any, offload_device: Any, size: int = 0) -> None:
        self.model = model
        self.load_device, self.offload_device = load_device, offload_device
        self.patches: dict[str, list[Any]] = {}
        self.patches_uuid = uuid.uuid4()
        self.backup: dict[str, Any] = {}
        self.object_patches: dict[str, Any] = {}
        self.object_patches_backup: dict[str, Any] = {}
        self.model_options: dict[str, Any] = {"transformer_options": {}}
        self.hook_patches: dict[Any, dict[str, list[Any]]] = {}
        self.hook_backup: dict[str, tuple[torch.Tensor, Any]] = {}
        self.cached_hook_patches: dict[Any, dict[str, torch.Tensor]] = {}
        self.current_hooks: Any = None
        self.hook_mode = comfy.hooks.EnumHookMode.MaxSpeed
        self.parent: ModelPatcher | None = None
        self.injections: dict[str, list[Any]] = {}
        self.wrappers: dict[str, dict[Any, list[Any]]] = {}
        self.callbacks: dict[str, dict[Any, list[Any]]] = {}
        self.additional_models: dict[str, list[Any]] = {}

    def clone(self) -> ModelPatcher:
        """Return a patcher of the same model, which shares its weights and their backups."""
        made = type(self)(self.model, self.load_device, self.offload_device)
        made.patches = {key: list(listed) for key, listed in self.patches.items()}
        made.patches_uuid, made.backup = self.patches_uuid, self.backup
        made.object_patches = dict(self.object_patches)
        made.object_patches_backup = self.object_patches_backup
        made.model_options = copy.deepcopy(self.model_options)
        made.hook_backup, made.parent = self.hook_backup, self
        made.hook_patches = {ref: dict(patches) for ref, patches in self.hook_patches.items()}
        made.injections, made.additional_models = dict(self.injections), dict(self.additional_models)
        made.wrappers = {place: dict(by_key) for place, by_key in self.wrappers.items()}
        made.callbacks = {place: dict(by_key) for place, by_key in self.callbacks.items()}
        return made

    def memory_required(self, input_shape: list[int]) -> int:
        """Return the bytes that a call with such a latent takes."""
        return int(self.model.memory_required(input_shape))

    def add_patches(
        self, patches: dict[Any, Any], strength_patch: float = 1.0, strength_model: float = 1.0
    ) -> list[Any]:
        """Add patches on weights; return the keys that the model has."""
        known = self.model.state_dict()
        added = []
        for name, value in patches.items():
            key, offset, function = (name, None, None) if isinstance(name, str) else (*name, None, None)[:3]
            if key in known:
                entry = (strength_patch, value, strength_model, offset, function)
                self.patches.setdefault(key, []).append(entry)
                added.append(name)
        self.patches_uuid = uuid.uuid4()
        return added

    def pre_run(self) -> None:
        """Prepare for a run."""
        self.model.current_patcher = self

    def cleanup(self) -> None:
        """End a run."""
        self.model.current_patcher = None

    def register_all_hook_patches(self, hooks: Any, target_dict: Any = None, **_: Any) -> Any:
        """Register the hooks of a run."""
        return hooks

    def add_object_patch(self, name: str, obj: Any) -> None:
        """Replace an attribute of the model while this patcher's patches are on it."""
        self.object_patches[name] = obj

    def get_model_object(self, name: str) -> Any:
        """Return an attribute of the model, as it is with this patcher's patches."""
        return self.object_patches.get(name, self.object_patches_backup.get(name, getattr(self.model, name, None)))

    def model_state_dict(self, filter_prefix: str | None = None) -> dict[str, torch.Tensor]:
        """Return the model's weights."""
        found = self.model.state_dict()
        return {key: value for key, value in found.items() if key.startswith(filter_prefix or "")}

    def get_key_patches(self, filter_prefix: str | None = None) -> dict[str, list[Any]]:
        """Return for each weight the tensor of its file with a function that converts it, and its patches."""
        found = {}
        for key, weight in self.model_state_dict(filter_prefix).items():
            own = self.backup[key].weight if key in self.backup else weight
            own = self.hook_backup[key][0] if key in self.hook_backup else own
            found[key] = [(own, lambda a, **_: a), *self.patches.get(key, [])]
        return found

    def patch_model(self, device_to: Any = None, load_weights: bool = True, **_: Any) -> Any:
        """Put this patcher's patches on the model, in place of another's."""
        for name, value in self.object_patches.items():
            self.object_patches_backup.setdefault(name, comfy.utils.get_attr(self.model, name))
            comfy.utils.set_attr(self.model, name, value)
        if not load_weights or self.model.current_weight_patches_uuid == self.patches_uuid:
            return self.model
        self.unpatch_hooks()
        self._restore()
        for key, patches in self.patches.items():
            weight = comfy.utils.get_attr(self.model, key)
            self.backup[key] = _Backup(weight.detach().clone(), False)
            made = calculate_weight(patches, weight.detach().to(torch.float32, copy=True))
            comfy.utils.set_attr_param(self.model, key, made.to(weight.dtype))
        self.model.current_weight_patches_uuid = self.patches_uuid
        return self.model

    def unpatch_model(self, device_to: Any = None, unpatch_weights: bool = True) -> None:
        """Take patches off the model."""
        if unpatch_weights:
            self.unpatch_hooks()
            self._restore()
        for name, value in self.object_patches_backup.items():
            comfy.utils.set_attr(self.model, name, value)
        self.object_patches_backup.clear()

    def _restore(self) -> None:
        for key, kept in self.backup.items():
            comfy.utils.set_attr_param(self.model, key, kept.weight)
        self.backup.clear()
        self.model.current_weight_patches_uuid = None

    def detach(self, unpatch_all: bool = True) -> Any:
        """Take the model off the device."""
        self.unpatch_model()
        return self.model

    def patch_hooks(self, hooks: Any) -> None:
        """Put a group of hooks on the weights, over the patches."""
        self.unpatch_hooks()
        patches: dict[str, list[Any]] = {}
        for hook in () if hooks is None else hooks.hooks:
            for key, listed in self.hook_patches.get(hook.hook_ref, {}).items():
                patches.setdefault(key, []).extend(listed)
        for key, listed in patches.items():
            weight = comfy.utils.get_attr(self.model, key)
            self.hook_backup[key] = (weight.detach().clone(), weight.device)
            kept = self.cached_hook_patches.get(hooks, {}).get(key)
            made = calculate_weight(listed, weight.detach().to(torch.float32, copy=True)) if kept is None else kept
            comfy.utils.copy_to_param(self.model, key, made)
            if self.hook_mode is comfy.hooks.EnumHookMode.MaxSpeed:
                self.cached_hook_patches.setdefault(hooks, {})[key] = made
        self.current_hooks = hooks

    def unpatch_hooks(self, whitelist_keys_set: Any = None) -> None:
        """Give the weights back what was on them before hooks."""
        for key, (weight, _) in self.hook_backup.items():
            comfy.utils.copy_to_param(self.model, key, weight)
        self.hook_backup.clear()
        self.current_hooks = None
