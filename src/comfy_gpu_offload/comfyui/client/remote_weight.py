"""What stands for a weight of a remote model wherever one is met here: it has a shape and a dtype, and no data."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from itertools import chain
from typing import Any, NoReturn, Self

import comfy.model_management
import torch
from torch import nn

from ...client.remote_model import RemoteModel
from ...errors import OffloadError, RemoteMergeError, RemoteWeightError
from .changes import swallowed_refusals
from .changes.code_origin import calling_node

# Setting these of a tensor's properties leaves its data alone.
_SETTABLE = frozenset({"requires_grad", "grad", "_grad", "names", "_backward_hooks", "retains_grad"})
# What torch can do to a tensor without its data. It is asked for facts …
_FACTS = frozenset(
    {"__format__", "__hash__", "__len__", "__repr__", "__str__", "_has_compatible_shallow_copy_type", "_is_view"}
    | {"detach", "detach_", "dim", "dim_order", "element_size", "has_names", "is_complex", "is_conj"}
    | {"is_contiguous", "is_floating_point", "is_inference", "is_neg", "is_pinned", "is_same_size", "is_set_to"}
    | {
        "is_shared",
        "is_signed",
        "ndimension",
        "nelement",
        "numel",
        "register_hook",
        "requires_grad_",
        "retain_grad",
    }
    | {"size", "storage_offset", "stride", "untyped_storage"}
)
# … given another shape or dtype …
_SHAPES = frozenset(
    {
        "__getitem__",
        "adjoint",
        "as_strided",
        "broadcast_to",
        "chunk",
        "contiguous",
        "diagonal",
        "expand",
        "expand_as",
    }
    | {"flatten", "hsplit", "movedim", "moveaxis", "narrow", "permute", "ravel", "reshape", "reshape_as", "select"}
    | {
        "squeeze",
        "split",
        "split_with_sizes",
        "swapaxes",
        "swapdims",
        "t",
        "tensor_split",
        "transpose",
        "unflatten",
    }
    | {"unfold", "unsqueeze", "view", "view_as", "vsplit"}
    | {"bfloat16", "clone", "double", "float", "half", "to", "type", "type_as"}
)
# … or another one is made like it.
_MADE_LIKE = frozenset(
    {"empty_like", "full_like", "new_empty", "new_empty_strided", "new_full", "new_ones", "new_tensor", "new_zeros"}
    | {"ones_like", "rand_like", "randint_like", "randn_like", "zeros_like"}
)
# Python's operators that write, as torch's methods are named.
_IN_PLACE = frozenset(f"i{name}__" for name in ("add", "sub", "mul", "truediv", "floordiv", "mod", "pow"))
_IN_PLACE |= frozenset(f"i{name}__" for name in ("and", "or", "xor", "lshift", "rshift"))
_WITHOUT_DATA = _FACTS | _SHAPES | _MADE_LIKE


class RemoteWeight(torch.Tensor):
    """A weight that is at a worker.

    Whatever needs its data raises and names who asked. What has another shape or dtype of it stands for it too. It
    says that it is on the device that sampling uses, as one that is here would: what is brought there stays data.

    Attributes:
        remote: the model that it is of.
        key: its name there, as in the model's `state_dict`.
    """

    remote: RemoteModel
    key: str

    @classmethod
    def of(cls, remote: RemoteModel, key: str, weight: torch.Tensor) -> Self:
        """Return what stands for a weight of that shape and dtype; `weight` is on the meta device."""
        # In the mode that the weight was made in, which is what torch lets others share its memory in.
        with torch.inference_mode(weight.is_inference()), torch._C.DisableTorchFunctionSubclass():
            made: Self = torch.Tensor._make_subclass(cls, weight.detach(), weight.requires_grad)
        made.remote, made.key = remote, key
        return made

    @classmethod
    def __torch_function__(
        cls, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Do what works without data; the rest is refused.

        Raises:
            OffloadError: the operation needs the data (`refusal`).
        """
        if not _needs_no_data(func):
            refuse(_weight_in(args, kwargs), is_change=_writes(func) and isinstance(args[0], RemoteWeight))
        if _property(func) in _OF_DEVICE:
            return _OF_DEVICE[_property(func)](comfy.model_management.get_torch_device())
        given = dict(kwargs or {})
        if func.__name__ in _MADE_LIKE and given.get("device") is None:
            given["device"] = comfy.model_management.get_torch_device()
        with torch._C.DisableTorchFunctionSubclass():
            try:
                result = func(*args, **given)
            except NotImplementedError:  # what torch raises where a tensor on the meta device has no data
                result = NotImplemented
        if result is NotImplemented:
            refuse(_weight_in(args, kwargs))
        return _standing_for(_weight_in(args, given), result)

    def refusal(self, by: str) -> OffloadError:
        """Return the error of who would read the data."""
        return RemoteWeightError(self.remote.description.ref.name, self.key, by)

    def __deepcopy__(self, memo: dict[int, Any]) -> RemoteWeight:
        """Return another one for the same weight: its model and what that is connected to are never copied."""
        made = type(self).of(self.remote, self.key, self)
        if isinstance(self, nn.Parameter):
            _as_parameter(made)
        memo[id(self)] = made
        return made

    def __reduce_ex__(self, _: Any) -> NoReturn:
        """Refuse to be written to a file."""
        refuse(self)


class MergedWeight(RemoteWeight):
    """A weight that ComfyUI hands on to be merged, by the worker alone: into a model that is here it cannot be."""

    def refusal(self, by: str) -> OffloadError:
        """Return the error of a merge."""
        return RemoteMergeError(self.remote.description.ref.name)


def stand_in_for_weights(remote: RemoteModel, network: nn.Module, prefix: str) -> None:
    """Replace the parameters and buffers without data of a skeleton's network; shared ones stay shared."""
    made: dict[int, RemoteWeight] = {}
    for name, module in network.named_modules():
        module.register_load_state_dict_pre_hook(_refuse_loading)
        for store in (module._parameters, module._buffers):
            for own, tensor in store.items():
                if tensor is None or not tensor.is_meta:
                    continue
                if id(tensor) not in made:
                    made[id(tensor)] = RemoteWeight.of(remote, prefix + f"{name}.{own}".removeprefix("."), tensor)
                    if store is module._parameters:
                        _as_parameter(made[id(tensor)])
                store[own] = made[id(tensor)]


def _refuse_loading(module: nn.Module, *_: Any) -> None:
    """Refuse new weights before torch copies them: what fails then it reports as an error of its own."""
    own = (*module.parameters(recurse=False), *module.buffers(recurse=False))
    weight = next((each for each in own if isinstance(each, RemoteWeight)), None)
    if weight is not None:
        refuse(weight, is_change=True)


def _as_parameter(weight: RemoteWeight) -> None:
    # What torch itself marks a tensor of a class of its own with, so that it is an instance of Parameter.
    weight._is_param = True


# By a tensor's property, what it is of a device.
_OF_DEVICE: Mapping[str, Callable[[torch.device], Any]] = {
    "device": lambda device: device,
    "is_cuda": lambda device: device.type == "cuda",
    "is_cpu": lambda device: device.type == "cpu",
}


def _property(func: Callable[..., Any]) -> str:
    """Return the name of the property that is asked for; empty where it is no property."""
    return str(getattr(getattr(func, "__self__", None), "__name__", "")) if func.__name__ == "__get__" else ""


def _needs_no_data(func: Callable[..., Any]) -> bool:
    name = func.__name__
    if name in {"__set__", "__delete__"}:
        return getattr(getattr(func, "__self__", None), "__name__", "") in _SETTABLE
    return name == "__get__" or name in _WITHOUT_DATA


def _writes(func: Callable[..., Any]) -> bool:
    """Return whether torch writes to the first tensor that `func` is given."""
    name = func.__name__
    if name.startswith("__"):
        return name in {"__set__", "__delete__", "__setitem__"} or name[2:] in _IN_PLACE
    return name.endswith("_")


def refuse(weight: RemoteWeight, *, is_change: bool = False) -> NoReturn:
    """Raise the weight's refusal, in the name of the code that calls."""
    error = weight.refusal(calling_node())
    if isinstance(error, RemoteWeightError):
        swallowed_refusals.note(weight.remote, error, is_change=is_change)
    raise error


def _weight_in(args: tuple[Any, ...], kwargs: dict[str, Any] | None) -> RemoteWeight:
    return next(_weights_in((args, kwargs)))


def _weights_in(value: Any) -> Iterator[RemoteWeight]:
    if isinstance(value, RemoteWeight):
        yield value
    elif isinstance(value, list | tuple):
        yield from chain.from_iterable(map(_weights_in, value))
    elif isinstance(value, dict):
        yield from _weights_in(list(value.values()))


def _standing_for(weight: RemoteWeight, result: Any) -> Any:
    """Have tensors without data that were made of a weight stand for it too."""
    if isinstance(result, list | tuple) and any(isinstance(each, torch.Tensor) for each in result):
        return type(result)(_standing_for(weight, each) for each in result)
    if isinstance(result, torch.Tensor) and not isinstance(result, RemoteWeight) and result.is_meta:
        return type(weight).of(weight.remote, weight.key, result)
    return result


def as_it_is(weight: torch.Tensor, **_: Any) -> torch.Tensor:
    """Stands where the network's own conversion of a weight would: the worker has that."""
    return weight
