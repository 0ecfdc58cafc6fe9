"""Kinds of node inputs that ComfyUI's API does not have."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from comfy_api.v0_0_2 import io


class WorkerList(io.Combo.Input):  # type: ignore[misc]  # ComfyUI is untyped
    """A combo of names at the worker, which web/listed_combos.js fills from one of the worker's lists.

    A node may have several, anywhere among its inputs. Its `validate_inputs` must name each: otherwise ComfyUI
    refuses every name, since no list stands here.
    """

    def __init__(self, name: str, kind: str, tooltip: str) -> None:
        """`kind`: one of `model_lists.KINDS`."""
        super().__init__(name, options=[], tooltip=tooltip)
        self._kind = kind

    def as_dict(self) -> dict[str, Any]:
        """Return the input's options as the frontend gets them."""
        return {**super().as_dict(), "worker_list": self._kind}


class _Choices(list[str]):
    """The choices of a combo in place of its type's name."""

    # ComfyUI 0.33 looks up the types of V3 inputs in a dict.
    __hash__ = object.__hash__  # type: ignore[assignment]


class StockInput(io.Input):  # type: ignore[misc]  # ComfyUI is untyped
    """An input in the form of ComfyUI's stock nodes: a type's name or a list of choices, and options.

    Combos of fixed choices are written so because of ComfyUI 0.3.64. With `io.Combo` it takes any value, and
    refuses links from nodes whose output has a list of choices for its type, as some packs' sampler selectors have.
    """

    def __init__(
        self, name: str, kind: str | Sequence[str], options: Mapping[str, Any], *, optional: bool = False
    ) -> None:
        """`kind`: ``INT``, say, or the choices. `options`: `default`, `tooltip` and others of the frontend's."""
        super().__init__(name, optional=optional, extra_dict=dict(options))
        self._kind = kind if isinstance(kind, str) else _Choices(kind)

    def get_io_type(self) -> Any:
        """Return the type's name, or the choices."""
        return self._kind
