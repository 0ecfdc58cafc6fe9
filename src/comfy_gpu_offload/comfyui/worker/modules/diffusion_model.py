"""Diffusion models: a ComfyUI `ModelPatcher`, whose network a call runs, with ControlNets before it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self, cast

import torch

from ....backends.base import ModelRunError, on_device
from ....errors import UnsupportedValueError
from ....io import tree
from ....protocol.messages import ModelRef
from ...installation.diffusion_model_files import DIFFUSION_MODELS, load_patcher
from ...wire.auxiliary_weights import auxiliary_weights
from ...wire.control_data import PREFIX, remote_net_fields
from ...wire.control_outputs import unpack_residuals
from ...wire.network_methods import METHODS
from ...wire.patch_form import NETWORK
from ...wire.stock_patches import unpack_options
from ..control_chains import Chain, LoadNet, read_chain
from .control_net import ControlNet
from .runnable_module import LoadModule, MethodCall, ModuleFiles, RunnableModule


class DiffusionModel(RunnableModule):
    """A diffusion model in memory."""

    prefix = ""
    files = DIFFUSION_MODELS
    # The network itself raises for wrong tensors; ControlNets and patches are checked in `prepare`.
    methods = dict.fromkeys(("forward", *sorted(METHODS)), lambda args, kwargs: None)
    weight_prefix = NETWORK
    can_sample = True

    def __init__(self, patcher: Any) -> None:
        self._patcher = patcher

    @classmethod
    def load(cls, found: ModuleFiles) -> Self:
        """See `RunnableModule`."""
        return cls(load_patcher(found.files[0], found.ref.weight_dtype))

    @classmethod
    def prepare(
        cls, method: str, args: tuple[Any, ...], kwargs: Mapping[str, Any], load: LoadModule, *, autocast: bool
    ) -> MethodCall:
        """See `RunnableModule`. In `kwargs`, ``control`` is as `wire.control_data` has it."""
        cls.methods[method](args, kwargs)
        control = kwargs.get("control")
        if autocast and remote_net_fields(control) is not None:
            raise ModelRunError("A ControlNet at the worker is not computed under torch.autocast: leave that out.")
        chain = read_chain(control, loading_nets(load))
        kwargs = {**kwargs, **({} if control is None else {"control": None})}
        residuals = control if chain is None else None
        return _NetworkCall(method, args, kwargs, chain, residuals)

    def patchers(self) -> list[Any]:
        """See `RunnableModule`."""
        return [self._patcher]

    def callee(self, patcher: Any) -> Any:
        """Return the network."""
        return patcher.model.diffusion_model

    def network(self) -> torch.nn.Module:
        """Return the diffusion model proper, without what prepares its inputs."""
        network: torch.nn.Module = self._patcher.model.diffusion_model
        return network

    def compute_dtype(self) -> torch.dtype:
        """See `RunnableModule`."""
        return _inference_dtype(self._patcher.model)

    def describe(self, name: str) -> dict[str, Any]:
        """See `RunnableModule`, and `details_of`."""
        return details_of(self._patcher.model, name)


@dataclass(frozen=True)
class _NetworkCall(MethodCall):
    """A call of the network, with a chain of ControlNets at the worker, or residuals that the client computed."""

    chain: Chain | None
    residuals: Any

    def companions(self) -> Sequence[Any]:
        """See `MethodCall`."""
        return () if self.chain is None else self.chain.models()

    def memory_required(self, patcher: Any) -> int:
        """See `MethodCall`."""
        latent = tree.first_tensor(self.args)
        needed = 0 if latent is None else int(patcher.memory_required(list(latent.shape)))
        return needed + (0 if self.chain is None else self.chain.memory_required(_inference_dtype(patcher.model)))

    def bind(
        self, module: RunnableModule, patcher: Any, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Callable[[], Any]:
        """See `MethodCall`."""
        _localise_options(patcher, kwargs)
        if self.chain is not None:
            kwargs["control"] = self.chain.compute(patcher, args[0] if args else None)
        elif self.residuals is not None:
            kwargs["control"] = on_device(unpack_residuals(self.residuals), patcher.load_device)
        return super().bind(module, patcher, args, kwargs)


def loading_nets(load: LoadModule) -> LoadNet:
    """Return what gives a ControlNet by the name of its file, and its fingerprint."""

    def load_net(name: str, fingerprint: str) -> ControlNet:
        # The prefix makes it one.
        return cast(ControlNet, load(ModelRef(name=PREFIX + name), fingerprint))

    return load_net


def _localise_options(patcher: Any, kwargs: dict[str, Any]) -> None:
    """Rebuild patch functions in `transformer_options`, and replace what depends on this machine."""
    options = kwargs.get("transformer_options")
    if not isinstance(options, dict):
        return
    kwargs["transformer_options"] = options = unpack_options(options)
    if "prefetch_dynamic_vbars" in options:
        # `BaseModel._apply_model` set it for the client's machine, whose ComfyUI may be newer: older ones have no
        # dynamic loading.
        options["prefetch_dynamic_vbars"] = getattr(patcher, "is_dynamic", bool)()


def _inference_dtype(model: Any) -> torch.dtype:
    """Return the dtype in which ComfyUI hands inputs to the network; 0.3.64 has no method for it."""
    dtype: torch.dtype
    if hasattr(model, "get_dtype_inference"):
        dtype = model.get_dtype_inference()
    else:
        dtype = model.manual_cast_dtype or model.get_dtype()
    return dtype


def details_of(model: Any, name: str) -> dict[str, Any]:
    """Return what a client builds its stand-in from: the config that ComfyUI detected, and the network's keys.

    Args:
        model: a ComfyUI `BaseModel`.

    Raises:
        ModelRunError: the config holds what cannot be sent.
    """
    config = model.model_config
    details = {
        "config_class": type(config).__name__,
        "unet_config": config.unet_config,
        "sampling_settings": config.sampling_settings,
        "model_type": model.model_type.name,
        "weight_dtype": model.get_dtype(),
        "manual_cast_dtype": model.manual_cast_dtype,
        "keys": {
            key: (tuple(tensor.shape), tensor.dtype) for key, tensor in model.diffusion_model.state_dict().items()
        },
    }
    if beside := auxiliary_weights(model):
        details["beside"] = beside
    try:
        tree.pack(details, "details")
    except UnsupportedValueError as error:
        raise ModelRunError(f"The configuration of {name!r} cannot be sent: {error}") from error
    return details
