"""The code of ComfyUI and torch that a network runs, and its replacements by node packs in this process.

Packs replace methods of classes and names in modules, as they are imported or while a node runs. The worker's code
is without these replacements. There are two kinds:

- Names replaced since ComfyUI began to run prompts (`UsedCode.replaced`) are a node's doing, for the model at hand:
  its run is refused.
- Names replaced before that (`UsedCode.foreign`), as packs were imported, may concern the model or not, and nothing
  is known of what was there before. They cause a warning.

A name counts only if a forward pass at the worker could run it, and if ComfyUI's or torch's own source has it.
"""

from __future__ import annotations

import builtins
import importlib
import sys
import threading
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from itertools import chain
from operator import methodcaller
from types import FunctionType, ModuleType
from typing import Any

import torch
from torch import nn

from .code_origin import packs_name_of, replaces_torchs
from .network_parts import Change
from .source_names import names_in_source, stored_names

# The modules that networks, their layers, and the patches on their weights are made of. The last two are always
# used, the others if the network's own code takes names from them.
_PREFIXES = ("comfy.ldm.", "comfy.ops", "comfy.rmsnorm", "comfy.quant_ops", "comfy.lora", "comfy.weight_adapter")
# Text encoders have these too.
ENCODERS = ("comfy.sd1_clip", "comfy.sdxl_clip", "comfy.clip_model", "comfy.text_encoders.")
# And encoders of pictures these.
IMAGE_ENCODERS = ("comfy.clip_vision", "comfy.clip_model", "comfy.image_encoders.")
_SAMPLING = frozenset(
    {
        "comfy.model_base",
        "comfy.model_sampling",
        "comfy.latent_formats",
        "comfy.conds",
        "comfy.sample",
        "comfy.samplers",
        "comfy.sampler_helpers",
        "comfy.k_diffusion.sampling",
        "comfy.k_diffusion.utils",
        "comfy.extra_samplers.uni_pc",
    }
)
_TORCH = (torch, torch.Tensor, nn.functional)
# Names that only this machine uses, or that no forward pass uses. Libraries replace some of them for good as other
# models are loaded, and torch.compile replaces `Module.__init__`.
_RUNS_HERE = {
    "torch": frozenset({"compile", "load", "manual_seed", "save", "seed"}),
    "comfy.lora": frozenset({"load_lora", "model_lora_keys_clip", "model_lora_keys_unet"}),
    "comfy.lora_convert": frozenset({"convert_lora"}),
    # Prompts become tokens here.
    "comfy.sd1_clip": frozenset(
        {"bundled_embed", "escape_important", "expand_directory_list", "load_embed", "parse_parentheses"}
        | {"safe_load_embed_zip", "token_weights", "unescape_important"}
    ),
}
_BUILDS_MODULES = frozenset(
    {"__getstate__", "__init__", "__repr__", "__setstate__", "extra_repr", "register_buffer", "register_parameter"}
    | {"_load_from_state_dict", "_save_to_state_dict", "load_state_dict", "state_dict"}
    | {"_reset_parameters", "reset_parameters"}
)
# Python creates these entries of a class by itself, some of them when they are first read.
_PYTHONS = frozenset(vars(type("Any", (), {}))) | {
    "__abstractmethods__",
    "__annotate__",
    "__annotations__",
    "__annotations_cache__",
    "__slotnames__",  # as one of its objects is copied
}
_CONSTANTS = (bool, int, float, str, bytes, tuple)
_VALUES = methodcaller("values")
_ABSENT = object()

_lock = threading.Lock()
_known: dict[int, _Namespace] = {}


@dataclass(frozen=True, eq=False)
class _Namespace:
    """A module or a class, with its entries as they were when this was made.

    Attributes:
        owner: the module or class.
        was: its entries by name.
    """

    owner: ModuleType | type
    was: Mapping[str, Any]

    @property
    def name(self) -> str:
        """The name for messages, with torch's package for its classes: ComfyUI has classes of the same names."""
        if isinstance(self.owner, ModuleType):
            return self.owner.__name__
        home = "torch." if self.owner is torch.Tensor else "torch.nn." if _is_torchs(self.owner) else ""
        return home + self.owner.__qualname__

    def changes(self) -> Iterator[Change]:
        """Yield each name that now has another value, if it matters to a forward pass at the worker."""
        now = vars(self.owner)
        for name in {**self.was, **now}:
            value = now.get(name, _ABSENT)
            if value is not self.was.get(name, _ABSENT) and self._matters(name, value):
                yield Change(f"{self.name}.{name}", None if value is _ABSENT else value)

    def foreign(self) -> Iterator[Change]:
        """Yield each name that had a node pack's code as its value already when this was made."""
        # Torch's classes take nobody else's functions, but the module `torch` has other libraries' functions too.
        of_torch = self.owner is not torch and _is_torchs(self.owner)
        for name, value in self.was.items():
            by = replaces_torchs(value) if of_torch else packs_name_of(value)
            # Packs also add names of their own, which ComfyUI's code does not use.
            if by is not None and not _runs_here(self.owner, name) and self._is_in_source(name):
                yield Change(f"{self.name}.{name}", value)

    def _is_in_source(self, name: str) -> bool:
        """Return whether the owner's own source has this name, or might have it."""
        owner = self.owner
        if isinstance(owner, ModuleType):
            names = names_in_source(owner.__name__, None)
            return names is None or name in names or hasattr(builtins, name)
        names = names_in_source(owner.__module__, owner.__qualname__)
        return names is None or name in names or any(hasattr(base, name) for base in owner.__bases__)

    def _matters(self, name: str, value: Any) -> bool:
        if _runs_here(self.owner, name):
            return False
        was = self.was.get(name, _ABSENT)
        if isinstance(self.owner, ModuleType):
            return self._matters_in_module(name, was, value)
        if name in _PYTHONS and not callable(value):
            return False
        if was is _ABSENT:
            # A new entry of a class of ComfyUI's may be a pack's own mark, by which it knows in later prompts that
            # it has acted. Then it changes nothing more, and its earlier changes would go unnoticed: so it counts.
            return not _is_torchs(self.owner) or any(name in vars(kind) for kind in self.owner.__mro__[1:])
        return True

    def _matters_in_module(self, name: str, was: Any, value: Any) -> bool:
        if was is _ABSENT:
            # The module's functions do not know a new name, unless it hides a built-in function.
            return hasattr(builtins, name) and callable(value)
        if isinstance(was, ModuleType) or callable(was) or callable(value):
            return True
        # Of other values only constants are compared: caches and counters change as the module's own code runs.
        is_constant = isinstance(was, _CONSTANTS) and not name.startswith("__")
        return is_constant and was != value and name not in stored_names(self.owner)


class UsedCode:
    """The modules and classes whose code a network or a sampling run uses. May be read by many threads.

    It is compared before each call, so all entries are first compared at once, by identity, in lists that Python
    builds and compares without a loop of its own. Names are looked at one by one only if the lists differ.
    """

    def __init__(self, owners: Iterable[ModuleType | type]) -> None:
        owners = dict.fromkeys(owners)
        self._namespaces = [_namespace(owner) for owner in owners]
        self._spaces = [vars(owner) for owner in owners]
        # If a name has been replaced already, there is no good state to compare with.
        self._bulk = None if any(self._changes()) else self._now()

    def replaced(self) -> Change | None:
        """Return a name replaced since ComfyUI began to run prompts, with its new value; None if there is none."""
        if self._same():
            return None
        found = next(self._changes(), None)
        if found is None:
            # The difference does not matter, so the next calls need not look at it again.
            self._bulk = self._now()
        return found

    @cached_property
    def foreign(self) -> tuple[Change, ...]:
        """The names that node packs had replaced before prompts ran, with their values."""
        return tuple(chain.from_iterable(space.foreign() for space in self._namespaces))

    def _changes(self) -> Iterator[Change]:
        for space in self._namespaces:
            yield from space.changes()

    def _same(self) -> bool:
        try:
            return self._now() == self._bulk
        except Exception:  # a value's own comparison may raise, and a namespace may grow meanwhile
            return False

    def _now(self) -> list[Any]:
        return list(chain.from_iterable(map(_VALUES, self._spaces)))


def of_network(network: nn.Module, *further: ModuleType | type, prefixes: tuple[str, ...] = ()) -> UsedCode:
    """Return the code that a network runs.

    Args:
        network: the skeleton's network.
        further: classes and modules around it, which packs may replace methods and functions of as well.
        prefixes: of the names of modules that this kind of network is made of, besides those of all kinds.
    """
    return UsedCode((*_owners(network, (*_PREFIXES, *prefixes)), *further))


def of_sampling(model: Any) -> UsedCode:
    """Return the code that samples a ComfyUI model outside of its network: its own classes, and the samplers."""
    kinds = (kind for kind in type(model).__mro__ if not _is_torchs(kind) and kind is not object)
    modules = [module for name, module in sys.modules.items() if name in _SAMPLING]
    return UsedCode((*kinds, *modules, *chain.from_iterable(map(_classes_of, modules))))


def remember() -> None:
    """Record the present entries of all modules and classes that a network may use, unless they are recorded.

    To be called when all packs have been imported and no node has run: later changes are a node's.
    """
    for name, module in list(sys.modules.items()):
        is_used = name.startswith((*_PREFIXES, *ENCODERS, *IMAGE_ENCODERS)) or name in _SAMPLING
        if is_used and isinstance(module, ModuleType):
            _namespace(module)
            for kind in _classes_of(module):
                _namespace(kind)
    for owner in _TORCH:
        _namespace(owner)
    for kind in vars(nn).values():
        if isinstance(kind, type) and issubclass(kind, nn.Module):
            _namespace(kind)


def remember_before_prompts() -> None:
    """Have ComfyUI's server call `remember` when the first prompt comes: all packs have been imported by then."""
    instance = getattr(importlib.import_module("server").PromptServer, "instance", None)
    if instance is None:
        return
    done = threading.Event()

    def on_prompt(prompt: Any) -> Any:
        if not done.is_set():
            done.set()
            remember()
        return prompt

    instance.add_on_prompt_handler(on_prompt)


def _classes_of(module: ModuleType) -> list[type]:
    values = list(vars(module).values())
    return [kind for kind in values if isinstance(kind, type) and kind.__module__ == module.__name__]


def _namespace(owner: ModuleType | type) -> _Namespace:
    """Return the recorded entries of a module or class; they are recorded now if they have not been."""
    with _lock:
        found = _known.get(id(owner))
        if found is None:
            found = _Namespace(owner, dict(vars(owner)))
            # ComfyUI creates classes for each model with quantised weights: recorded for good, they would add up.
            if isinstance(owner, ModuleType) or "<locals>" not in owner.__qualname__:
                _known[id(owner)] = found
        return found


def _owners(network: nn.Module, prefixes: tuple[str, ...]) -> Iterator[ModuleType | type]:
    """Yield the classes of a network's parts, their modules, the modules that these use, and torch's own."""
    kinds = dict.fromkeys(kind for part in network.modules() for kind in type(part).__mro__ if kind is not object)
    yield from kinds
    waiting = [sys.modules[kind.__module__] for kind in kinds if kind.__module__ in sys.modules]
    seen: set[str] = set()
    while waiting:
        module = waiting.pop()
        if module.__name__ in seen or not f"{module.__name__}.".startswith(prefixes):
            continue
        seen.add(module.__name__)
        yield module
        waiting += _used_by(module)
    yield from (module for name, module in sys.modules.items() if name.startswith(_PREFIXES[-2:]))
    yield from _TORCH


def _used_by(module: ModuleType) -> Iterator[ModuleType]:
    """Yield the modules that a module has imported, or has imported names from."""
    for value in list(vars(module).values()):
        if isinstance(value, ModuleType):
            yield value
        elif isinstance(value, FunctionType | type) and value.__module__ in sys.modules:
            yield sys.modules[value.__module__]


def _is_torchs(owner: ModuleType | type) -> bool:
    name = owner.__name__ if isinstance(owner, ModuleType) else owner.__module__
    return name.partition(".")[0] == "torch"


def _runs_here(owner: ModuleType | type, name: str) -> bool:
    """Return whether no forward pass at the worker uses the owner's entry of that name."""
    if isinstance(owner, ModuleType):
        if f"{owner.__name__}.".startswith(ENCODERS) and "Tokenizer" in name:
            return True
        return name in _RUNS_HERE.get(owner.__name__, ())
    return _is_torchs(owner) and name in _BUILDS_MODULES
