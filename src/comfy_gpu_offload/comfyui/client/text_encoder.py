"""A CLIP whose weights are at the worker: ComfyUI's own class and tokenizer, whose encoder calls the worker.

ComfyUI's `CLIP` calls `encode_token_weights` of its encoder, and node packs call that of the encoder's parts. These
methods are replaced on the objects, so that clones, hooks, options and tokenizers stay ComfyUI's own.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import partial
from typing import Any, NoReturn

import comfy.model_management
import torch
from torch import nn

from ...client.remote_model import RemoteModel
from ...errors import ModelChangedError, Obstacle, UnsupportedPatchError
from ...protocol.messages import FORWARD, Keep
from ..wire.file_contents import LargeTensor
from ..wire.text_encoder_calls import (
    ENCODE,
    FILE_DATA,
    GENERATE,
    OPTION_NAMES,
    OPTIONS,
    PART,
    options_of,
    parts_of,
)
from . import loader_epoch, refusals
from .changes import code_origin, loaded_code, swallowed_refusals, tainted_models
from .changes.foreign_code import warn_of_foreign_code
from .changes.network_parts import NetworkParts
from .file_data_cache import FileDataCache
from .patches.patch_uploads import report_skipped, weight_obstacles
from .patches.weight_hooks import hook_obstacles
from .remote_state import RemoteState, keep_state, state_of
from .remote_weight import RemoteWeight, stand_in_for_weights
from .stand_in import refuse_conversion
from .text_encoder_skeleton import TextEncoderFacts, build_clip
from .weightless_patcher import WeightlessPatcher

# What packs replace on an encoder or its parts: theirs runs here, around calls to the worker. The first three are
# replaced here too.
_REPLACED = (ENCODE, FORWARD, GENERATE)
_SEAMS = frozenset({*_REPLACED, "encode"})
# ComfyUI sets the first of these before each call, which has them with it; the last only moves weights.
_SET = frozenset({*OPTION_NAMES, "execution_device", "_apply"})


@dataclass(eq=False)
class EncoderState(RemoteState):
    """The state of one text encoder, and its calls.

    Attributes:
        encoders: its parts by name, "" for an encoder that is one part itself.
        own: the functions that stand in the place of methods, by the name of the part and of the method.
    """

    encoders: dict[str, nn.Module] = field(default_factory=dict)
    own: dict[tuple[str, str], Any] = field(default_factory=dict)

    def install(self) -> None:
        """Put this object's calls in the place of the methods of the encoder and of its parts."""
        for name, module in {"": self.skeleton, **self.encoders}.items():
            module._apply = partial(self._moved, name)  # type: ignore[method-assign]
            for method in _REPLACED:
                if hasattr(type(module), method):
                    self.own[name, method] = partial(self._called, name, method)
                    setattr(module, method, self.own[name, method])

    def _moved(self, name: str, fn: Any, recurse: bool = True) -> nn.Module:
        """Do nothing where `nn.Module` would move weights, which are at the worker.

        Raises:
            UnsupportedPatchError: `fn` changes the dtype or the memory format.
        """
        refuse_conversion(fn, torch.float32, partial(self._refuse, name))
        return self.encoders.get(name, self.skeleton)

    def _refuse(self, name: str, what: str) -> NoReturn:
        part = f"{name} {what}".strip()
        obstacle = refusals.of_network(part, by=code_origin.caller())
        raise UnsupportedPatchError((tainted_models.mark_unusable(self.remote, obstacle),))

    def may_replace(self, path: str) -> bool:
        """Return whether a node's code may stand at that dotted path of the encoder."""
        part, _, name = path.rpartition(".")
        return name in _SEAMS and (part == "" or part in self.encoders)

    def _called(self, name: str, method: str, *args: Any, **kwargs: Any) -> Any:
        """Answer a call of the encoder ("") or of a part."""
        module = self.encoders.get(name, self.skeleton)
        if self._is_composed_here(name, method):
            return getattr(type(module), method)(module, *args, **kwargs)
        device = self._result_device(module, method)
        sent = {PART: name, OPTIONS: options_of(self.encoders), **kwargs}
        return self._ask(method, args, sent, device)

    def _is_composed_here(self, name: str, method: str) -> bool:
        """Return whether ComfyUI's own method runs here, because it calls what a node has replaced.

        Raises:
            UnsupportedPatchError: the method also needs weights of the encoder outside of its parts.
        """
        if name in self.encoders:
            calls = ("encode", FORWARD) if method == ENCODE else ()
            return any(self._is_replaced(name, each) for each in calls)
        replaced = [f"{part}.{each}" for part in self.encoders for each in _SEAMS if self._is_replaced(part, each)]
        if not replaced or method not in {ENCODE, GENERATE}:
            return False
        if outside := self._weights_outside():
            part, _, attribute = replaced[0].rpartition(".")
            value = vars(self.encoders[part]).get(attribute)
            raise UnsupportedPatchError((refusals.of_composite(replaced[0], outside, value),))
        return True

    def _is_replaced(self, part: str, method: str) -> bool:
        now = vars(self.encoders[part]).get(method)
        return now is not None and now is not self.own.get((part, method))

    def _weights_outside(self) -> str | None:
        """Return the key of a weight of the composite itself, which no part has; None where there is none."""
        prefixes = tuple(f"{name}." for name in self.encoders)
        keys = (key for key, _ in self.skeleton.named_parameters() if not key.startswith(prefixes))
        return next(keys, None)

    def _result_device(self, module: nn.Module, method: str) -> torch.device:
        """Return the device on which ComfyUI's own method leaves its result."""
        management: Any = comfy.model_management
        if method == FORWARD:
            chosen = getattr(module, "execution_device", None) or management.text_encoder_device()
        else:
            chosen = management.intermediate_device()
        device: torch.device = chosen
        return device

    def _ask(self, method: str, args: tuple[Any, ...], kwargs: dict[str, Any], device: torch.device) -> Any:
        found = self.found_change()
        if found is not None:
            raise UnsupportedPatchError((found,))
        # Whoever calls a part, as packs do that weight prompts their own way, goes on to compute with its result.
        keep: Keep | None = "digests" if method == ENCODE and not kwargs[PART] else None
        try:
            return self.remote.patched(
                self.weight_patches,
                args,
                kwargs,
                self.hooks,
                method=method,
                device=device,
                keep_result=keep,
            )
        except ModelChangedError:
            loader_epoch.advance()
            raise

    def found_change(self) -> Obstacle | None:
        """Return what a node has changed of the encoder or of the code that it runs; None for nothing."""
        found = tainted_models.reason(self.remote)
        if found is not None:
            return found
        changed = self.parts.changed_between()
        if changed is not None:
            return tainted_models.mark_unusable(self.remote, refusals.of_network(changed.part, changed.value))
        replaced = self.code.replaced()
        if replaced is None:
            return None
        loader_epoch.advance()
        return refusals.of_code(replaced.part, replaced.value)


class RemoteClipPatcher(WeightlessPatcher):
    """The patcher of a text encoder whose weights are at the worker."""

    _reported: Any = None

    def refuse_unsupported(self) -> None:
        """Refuse patches that cannot be sent to the worker.

        Raises:
            UnsupportedPatchError: there are such patches; it lists all of them.
        """
        if found := tuple(self._obstacles()):
            raise UnsupportedPatchError(found)

    def _obstacles(self) -> Iterator[Obstacle]:
        yield from weight_obstacles(self)
        yield from hook_obstacles(self)
        if getattr(self, "weight_wrapper_patches", None):
            yield refusals.of_weight_wrappers(self.weight_wrapper_patches)
        for name, injections in getattr(self, "injections", {}).items():
            yield refusals.of_injection(name, injections)
        state = state_of(self.model)
        for name, value in self.object_patches.items():
            if not isinstance(state, EncoderState) or not state.may_replace(name):
                yield refusals.of_object(name, value)

    def after_loading(self) -> None:
        """Apply the hooks that a node has put on the CLIP, as ComfyUI does in the step that loads weights."""
        swallowed_refusals.report(self.remote)
        if self._reported != self.patches_uuid:
            report_skipped(self.patch_weights(), self)
            warn_of_foreign_code(state_of(self.model).code.foreign)
            self._reported = self.patches_uuid
        self._run_hooks = None
        self.apply_hooks(self.forced_hooks, force_apply=True)


def remote_clip(remote: RemoteModel, data: FileDataCache) -> Any:
    """Return a CLIP, as ComfyUI's nodes pass it on, for a worker's text encoder.

    Args:
        data: keeps tokenizers, which are not fetched twice.

    Raises:
        OffloadError: this ComfyUI cannot build the encoder's skeleton, or a tokenizer cannot be fetched.
        MessageError: the worker's description is malformed.
    """

    def fetch(wanted: LargeTensor) -> torch.Tensor:
        return data.get(wanted, lambda: remote.patched(None, (wanted.digest,), {}, method=FILE_DATA))

    facts = TextEncoderFacts.of(remote)
    # Tensors made in inference mode have no version counter, by which writes to them are noticed.
    with torch.inference_mode(False), torch.no_grad():
        clip = build_clip(facts, fetch)
    _make_remote(clip, remote)
    return clip


def _make_remote(clip: Any, remote: RemoteModel) -> None:
    model: nn.Module = clip.cond_stage_model
    weights = {key: (tuple(each.shape), each.dtype) for key, each in model.state_dict().items()}
    if hasattr(model, "memory_estimation_function"):
        # ComfyUI would let models on this machine leave memory for what the worker computes.
        model.memory_estimation_function = lambda *_, **__: 0  # type: ignore[assignment]
    stand_in_for_weights(remote, model, "")
    encoders = parts_of(model)
    free = {model: _SEAMS | _SET, **dict.fromkeys(encoders.values(), _SEAMS | _SET)}
    state = EncoderState(
        remote=remote,
        skeleton=model,
        file_weights={
            key: RemoteWeight.of(remote, key, torch.empty(shape, dtype=dtype, device="meta"))
            for key, (shape, dtype) in weights.items()
        },
        file_shapes={key: shape for key, (shape, _) in weights.items()},
        runs_wrappers=False,
        parts=NetworkParts(model, free),
        code=loaded_code.of_network(model, prefixes=loaded_code.ENCODERS),
        encoders=encoders,
    )
    state.install()
    keep_state(model, state)
    stock = clip.patcher
    device = comfy.model_management.text_encoder_device()
    clip.patcher = RemoteClipPatcher(model, load_device=device, offload_device=torch.device("cpu"))
    # As `comfy.sd.CLIP` sets its own patcher up.
    for name in ("hook_mode", "is_clip"):
        setattr(clip.patcher, name, getattr(stock, name))
