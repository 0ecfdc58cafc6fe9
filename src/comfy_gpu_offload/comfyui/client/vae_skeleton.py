"""A worker's description of a VAE, checked, and the VAE without weights that ComfyUI's own class makes of it."""

from __future__ import annotations

import inspect
import warnings
from dataclasses import dataclass
from typing import Any

import comfy.sd
import torch
from torch import nn

from ...client.remote_model import RemoteModel
from ...errors import MessageError, OffloadError
from ..wire.file_contents import FileContents, LargeTensor

_META = torch.device("meta")
_FACTS = {"has_metadata", "dtype", "keys", "buffers"}


@dataclass(frozen=True)
class VaeFacts:
    """A worker's description of a VAE, checked.

    Attributes:
        file: that it is made of, as its loader handed it on.
        has_metadata: whether the loader handed on the file's metadata.
        dtype: that it computes in.
        keys: shapes of the network's weights.
        buffers: small tensors of the network that are no weights.
    """

    file: FileContents
    has_metadata: bool
    dtype: torch.dtype
    keys: dict[str, tuple[int, ...]]
    buffers: dict[str, torch.Tensor]

    @classmethod
    def of(cls, remote: RemoteModel) -> VaeFacts:
        """Return a worker's description of a VAE, checked.

        Raises:
            MessageError: the details are not of this form.
        """
        details = remote.details
        if not isinstance(details, dict) or set(details) != {"files", "vae"}:
            raise MessageError("the worker's description of the VAE is not of the expected form")
        files, facts = details["files"], details["vae"]
        if not isinstance(files, list) or len(files) != 1:
            raise MessageError("the worker's description of the VAE has no file")
        if not isinstance(facts, dict) or set(facts) != _FACTS or not _are_facts(facts):
            raise MessageError("the worker's description of the VAE has invalid facts")
        return cls(FileContents.read(files[0]), **facts)


def _are_facts(facts: dict[str, Any]) -> bool:
    keys, buffers = facts["keys"], facts["buffers"]
    return (
        isinstance(facts["has_metadata"], bool)
        and isinstance(facts["dtype"], torch.dtype)
        and facts["dtype"].is_floating_point
        and isinstance(keys, dict)
        and all(isinstance(key, str) and isinstance(shape, tuple) for key, shape in keys.items())
        and isinstance(buffers, dict)
        and all(isinstance(key, str) and isinstance(value, torch.Tensor) for key, value in buffers.items())
    )


def make_vae(vae: Any, facts: VaeFacts) -> None:
    """Make `vae`, of a subclass of `comfy.sd.VAE`, as that class's own `__init__` does, without weights.

    Raises:
        OffloadError: this ComfyUI does not know such a VAE, or builds it differently.
    """
    given: dict[str, Any] = {"sd": facts.file.state_dict(_no_large), "dtype": facts.dtype}
    if facts.has_metadata:
        given["metadata"] = dict(facts.file.metadata)
    if not given.keys() <= inspect.signature(comfy.sd.VAE.__init__).parameters.keys():
        raise _skew("does not read a VAE's metadata")
    try:
        # Tensors made in inference mode have no version counter, by which writes to them are noticed.
        with torch.inference_mode(False), torch.no_grad(), warnings.catch_warnings():
            # Torch warns of data for weights that have none here.
            warnings.simplefilter("ignore", UserWarning)
            _build(vae, given)
    except (RuntimeError, TypeError, ValueError, KeyError, AttributeError, NotImplementedError) as error:
        raise _skew(f"cannot build it ({type(error).__name__}: {str(error)[:200]})") from error
    network = vae.first_stage_model
    if network is None:
        raise _skew("does not know it")
    if {key: tuple(weight.shape) for key, weight in network.state_dict().items()} != facts.keys:
        raise _skew("builds it with other weights")
    _fill_in(network, facts.buffers)


def _build(vae: Any, given: dict[str, Any]) -> None:
    try:
        with _META:
            comfy.sd.VAE.__init__(vae, **given)
    except (RuntimeError, NotImplementedError):
        # Some networks compute with a few numbers as they are built, so they need a real device. ComfyUI leaves
        # weights uninitialised, and memory that is never written to takes no room.
        vae.__dict__.clear()
        comfy.sd.VAE.__init__(vae, **_on_cpu(given))
        vae.first_stage_model.to(_META)


def _on_cpu(given: dict[str, Any]) -> dict[str, Any]:
    """Return the arguments with a state dict whose weights share one number's memory: there is nothing to load."""
    weights = {
        key: torch.zeros((), dtype=weight.dtype).expand(weight.shape) if weight.is_meta else weight
        for key, weight in given["sd"].items()
    }
    return {**given, "sd": weights}


def _fill_in(network: nn.Module, buffers: dict[str, torch.Tensor]) -> None:
    """Give the network the data of its small buffers, which nodes and its own arithmetic on this side read.

    Raises:
        MessageError: the network has no such buffer.
    """
    for name, value in buffers.items():
        owner, _, own = name.rpartition(".")
        store = network.get_submodule(owner)._buffers if _has_module(network, owner) else {}
        found = store.get(own)
        if found is None or tuple(found.shape) != tuple(value.shape):
            raise MessageError("the worker's description of the VAE has a buffer that its network lacks")
        store[own] = value


def _has_module(network: nn.Module, name: str) -> bool:
    try:
        network.get_submodule(name)
    except AttributeError:
        return False
    return True


def _no_large(_: LargeTensor) -> torch.Tensor:
    raise MessageError("the worker's description of the VAE has a tensor that no VAE has")


def _skew(why: str) -> OffloadError:
    return OffloadError(
        f"The worker's VAE cannot be used here, because this ComfyUI {why}. Use the same ComfyUI release on both "
        "sides."
    )
