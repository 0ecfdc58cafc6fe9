"""Stand-ins for the weights of a remote model: tensors with a shape and a dtype, but without data.

With plain tensors on the meta device most operations would go through, and a node would end in torch's own errors
or compute nothing without notice. `RemoteWeight` lets only operations pass that need no data. All others raise an
error that names the weight and the code that asked.
"""

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

# The properties of a tensor that can be set without changing its data.
_SETTABLE = frozenset({"requires_grad", "grad", "_grad", "names", "_backward_hooks", "retains_grad"})
# Torch's functions and methods that need no data: those that return facts …
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
# … those that return a tensor of another shape or dtype …
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
# … and those that make another tensor like this one.
_MADE_LIKE = frozenset(
    {"empty_like", "full_like", "new_empty", "new_empty_strided", "new_full", "new_ones", "new_tensor", "new_zeros"}
    | {"ones_like", "rand_like", "randint_like", "randn_like", "zeros_like"}
)
# Python's in-place operators, by the names of torch's methods without the leading underscores.
_IN_PLACE = frozenset(f"i{name}__" for name in ("add", "sub", "mul", "truediv", "floordiv", "mod", "pow"))
_IN_PLACE |= frozenset(f"i{name}__" for name in ("and", "or", "xor", "lshift", "rshift"))
_PLAIN = (torch.Tensor, nn.Parameter)
_WITHOUT_DATA = _FACTS | _SHAPES | _MADE_LIKE


class RemoteWeight(torch.Tensor):
    """A stand-in for a weight at a worker.

    An operation that needs its data raises an error that names the code which asked. A view or cast of it is a
    stand-in for the same weight. Its `device` is the one that sampling uses, as a local weight's would be: code
    moves its own tensors to a weight's device, and on the meta device they would lose their data.

    Attributes:
        remote: the weight's model.
        key: the weight's name in the model's `state_dict`.
    """

    remote: RemoteModel
    key: str

    @classmethod
    def of(cls, remote: RemoteModel, key: str, weight: torch.Tensor) -> Self:
        """Return a stand-in with the shape and dtype of `weight`, which is on the meta device."""
        if type(weight) not in _PLAIN and not isinstance(weight, RemoteWeight):
            # A quantised weight, as later releases load them, wraps several tensors and shares no memory.
            weight = torch.empty(weight.shape, dtype=weight.dtype, device="meta")
        # Torch lets a tensor share another one's memory only in the inference mode that this was made in.
        with torch.inference_mode(weight.is_inference()), torch._C.DisableTorchFunctionSubclass():
            made: Self = torch.Tensor._make_subclass(cls, weight.detach(), weight.requires_grad)
        made.remote, made.key = remote, key
        return made

    @classmethod
    def __torch_function__(
        cls, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Run a torch function that needs no data.

        Torch calls this for each of its functions and methods, and each property, with such a tensor among the
        arguments.

        Raises:
            OffloadError: the function needs the data (`refusal`).
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
            except NotImplementedError:  # torch's answer where a tensor on the meta device lacks data
                result = NotImplemented
        if result is NotImplemented:
            refuse(_weight_in(args, kwargs))
        return _standing_for(_weight_in(args, given), result)

    def refusal(self, by: str) -> OffloadError:
        """Return the error for code that needs the data.

        Args:
            by: the name of that code.
        """
        return RemoteWeightError(self.remote.description.ref.name, self.key, by)

    def __deepcopy__(self, memo: dict[int, Any]) -> RemoteWeight:
        """Return another stand-in for the same weight; its model, with the connection, is not copied."""
        made = type(self).of(self.remote, self.key, self)
        if isinstance(self, nn.Parameter):
            _as_parameter(made)
        memo[id(self)] = made
        return made

    def __reduce_ex__(self, _: Any) -> NoReturn:
        """Refuse to be written to a file."""
        refuse(self)


class MergedWeight(RemoteWeight):
    """A weight that ComfyUI hands on for a merge, which the worker does; with a local model it is refused."""

    def refusal(self, by: str) -> OffloadError:
        """Return the error for a merge into a local model."""
        return RemoteMergeError(self.remote.description.ref.name)


def stand_in_for_weights(remote: RemoteModel, network: nn.Module, prefix: str) -> None:
    """Replace the parameters and buffers of a skeleton's network by stand-ins.

    Those that have data stay. A tensor that several modules share is replaced by one stand-in for all of them.

    Args:
        remote: the model that they stand for weights of.
        network: the network, on the meta device.
        prefix: of the network's keys in the model's `state_dict`.
    """
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
    """Refuse to load weights into a module, before torch copies them.

    Torch collects errors of its copying and raises one of its own, in which the refusal would be lost.
    """
    own = (*module.parameters(recurse=False), *module.buffers(recurse=False))
    weight = next((each for each in own if isinstance(each, RemoteWeight)), None)
    if weight is not None:
        refuse(weight, is_change=True)


def _as_parameter(weight: RemoteWeight) -> None:
    # Torch's own mark, by which a tensor of another class counts as an instance of Parameter.
    weight._is_param = True


# A tensor's properties that depend on its device, by name.
_OF_DEVICE: Mapping[str, Callable[[torch.device], Any]] = {
    "device": lambda device: device,
    "is_cuda": lambda device: device.type == "cuda",
    "is_cpu": lambda device: device.type == "cpu",
}


def _property(func: Callable[..., Any]) -> str:
    """Return the name of the property that `func` reads; empty if it is no property's getter."""
    return _owner_name(func) if func.__name__ == "__get__" else ""


def _owner_name(func: Callable[..., Any]) -> str:
    """Return the name of the property whose getter, setter or deleter `func` is; empty if there is none."""
    return str(getattr(getattr(func, "__self__", None), "__name__", ""))


def _needs_no_data(func: Callable[..., Any]) -> bool:
    name = func.__name__
    if name in {"__set__", "__delete__"}:
        return _owner_name(func) in _SETTABLE
    return name == "__get__" or name in _WITHOUT_DATA


def _writes(func: Callable[..., Any]) -> bool:
    """Return whether `func` writes to its first argument."""
    name = func.__name__
    if name.startswith("__"):
        return name in {"__set__", "__delete__", "__setitem__"} or name[2:] in _IN_PLACE
    return name.endswith("_")


def refuse(weight: RemoteWeight, *, is_change: bool = False) -> NoReturn:
    """Raise the weight's refusal, which names the node or pack whose code is running.

    Args:
        weight: the weight whose data is needed.
        is_change: whether it would be changed. Code that catches the refusal may go on after a read, but not after
            a change (`swallowed_refusals`).

    Raises:
        OffloadError: always.
    """
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
    """Return a function's result with stand-ins for `weight` in the place of its tensors without data."""
    if isinstance(result, list | tuple) and any(isinstance(each, torch.Tensor) for each in result):
        return type(result)(_standing_for(weight, each) for each in result)
    if isinstance(result, torch.Tensor) and not isinstance(result, RemoteWeight) and result.is_meta:
        return type(weight).of(weight.remote, weight.key, result)
    return result


def as_it_is(weight: torch.Tensor, **_: Any) -> torch.Tensor:
    """Return a weight unchanged, where ComfyUI would convert it for a merge: the worker does that."""
    return weight
