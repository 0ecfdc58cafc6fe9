"""Tensors whose data is at a worker, and stays there until something here reads it.

A `KeptTensor` knows its dtype, shape, strides and device. Operations that are exact wherever they run give another
one, which remembers them; everything else is given the data first. What may be done with a tensor can be done with
this one, and gives the same.

Data may be changed in place, through the tensor or through any view of it. So the data of one tensor never comes
alone: with it, all tensors that are made of it or it is made of, and are still alive, get theirs, in the order in
which they were made; and what is made of them later gets its data at once. From then on torch keeps views and
copies apart as ever. Whether the data is still what the worker has is seen from a hash of it.
"""

from __future__ import annotations

import secrets
import sys
import threading
import weakref
from collections.abc import Callable, Mapping
from typing import Any, Protocol, Self

import torch
import xxhash
from torch.utils._pytree import tree_map_only

from ..buffers import tensor_bytes
from .derivation import MOST_SOURCES, MOST_STEPS, Derivation, DerivationError, Step, apply, outline

# Guards the graph of all tensors. Nothing waits for a worker while it is held.
_GRAPH = threading.RLock()
_SEED = secrets.randbits(64)
_UNCOMPILED: dict[Callable[..., Any], Callable[..., Any]] = {}


class Source(Protocol):
    """An owner of the data of tensors that a worker keeps.

    Attributes:
        holder: whose worker keeps them: their names mean nothing to others.
        is_held: whether the worker is believed to keep them.
    """

    holder: object
    is_held: bool

    def data(self, position: int) -> tuple[torch.Tensor, bool]:
        """Return the tensor at that position of the kept result, and whether it is the one of the digest.

        Raises:
            OffloadError: it could not be fetched, nor computed again.
        """

    def renew(self) -> None:
        """Have the worker, which has lost them, keep them again; `is_held` says whether it does.

        Raises:
            OffloadError: the worker could not be asked.
        """


class Node:
    """A tensor in the graph of kept tensors: kept by a worker itself, or made of others by a step.

    Attributes:
        like: a tensor on the meta device, of the same dtype, shape and strides.
        device: of the data.
        depth: steps between it and what a worker keeps.
        real: the data; None until something reads it.
    """

    def __init__(self, like: torch.Tensor, device: torch.device, depth: int = 0) -> None:
        self.like = like
        self.device = device
        self.depth = depth
        self.real: torch.Tensor | None = None
        self._hash: bytes | None = None
        self._made_of_this: weakref.WeakSet[Node] = weakref.WeakSet()

    @property
    def parents(self) -> tuple[Node, ...]:
        """The tensors that this one is made of."""
        return ()

    def fill(self) -> None:
        """Make the data of that of the parents, which have theirs."""
        raise NotImplementedError

    def set_data(self, real: torch.Tensor) -> None:
        """Take `real` for the data."""
        self.real = real
        same = (real.dtype, real.shape, real.stride()) == (self.like.dtype, self.like.shape, self.like.stride())
        self._hash = _hash_of(real) if same else None

    @property
    def is_as_kept(self) -> bool:
        """Return whether the data, if it is here, has not been changed since."""
        return self.real is None or (self._hash is not None and _hash_of(self.real) == self._hash)

    def link(self) -> None:
        """Have the parents know this tensor."""
        for parent in self.parents:
            parent._made_of_this.add(self)

    def connected(self) -> list[Node]:
        """Return all living tensors that this one is connected with, itself among them, parents first."""
        found: dict[int, Node] = {}
        waiting: list[Node] = [self]
        while waiting:
            node = waiting.pop()
            if id(node) not in found:
                found[id(node)] = node
                waiting += [*node.parents, *node._made_of_this]
        ordered: dict[int, Node] = {}
        for node in found.values():
            _visit(node, ordered)
        return list(ordered.values())


def _visit(node: Node, ordered: dict[int, Node]) -> None:
    if id(node) not in ordered:
        for parent in node.parents:
            _visit(parent, ordered)
        ordered[id(node)] = node


class _Root(Node):
    def __init__(
        self, like: torch.Tensor, device: torch.device, digest: bytes, source: Source, position: int
    ) -> None:
        super().__init__(like, device)
        self.digest = digest
        self.source = source
        self.position = position
        self.is_named = True

    def fetch(self) -> tuple[torch.Tensor, bool]:
        return self.source.data(self.position)

    def take(self, fetched: tuple[torch.Tensor, bool]) -> None:
        if self.real is None:
            real, self.is_named = fetched
            self.set_data(real)

    def fill(self) -> None:
        raise RuntimeError("the data of a kept tensor is fetched before others are made of it")


class _Made(Node):
    def __init__(
        self, like: torch.Tensor, device: torch.device, made_of: tuple[Node, ...], step: Step | None
    ) -> None:
        super().__init__(like, device, 1 + max(node.depth for node in made_of))
        self._made_of = made_of
        self.step = step

    @property
    def parents(self) -> tuple[Node, ...]:
        return self._made_of

    def fill(self) -> None:
        reals = [parent.real for parent in self._made_of if parent.real is not None]
        self.set_data(reals[0].to(self.device) if self.step is None else apply(self.step, reals))


class KeptTensor(torch.Tensor):
    """A tensor whose data a worker keeps. See the module.

    Attributes:
        node: its place in the graph.
    """

    node: Node

    @staticmethod
    def __new__(cls, node: Node) -> Self:
        """Return a tensor for a node of the graph."""
        like = node.like
        # One made in inference mode has no version counter, which torch asks for.
        with torch.inference_mode(False):
            made: Self = torch.Tensor._make_wrapper_subclass(
                cls, like.shape, strides=like.stride(), dtype=like.dtype, device=node.device, requires_grad=False
            )
        made.node = node
        return made

    @classmethod
    def of_digest(
        cls, like: torch.Tensor, device: torch.device, digest: bytes, source: Source, position: int
    ) -> Self:
        """Return a tensor that a worker keeps under its digest.

        Args:
            like: on the meta device, of its dtype, shape and strides.
            device: where its data is to be.
            digest: of its content.
            source: has the data, at `position`.
        """
        return cls(_Root(like, device, digest, source, position))

    def derivation(self, holder: object) -> Derivation | bytes | None:
        """Return by what the worker of `holder` knows this tensor: a digest, or how it is made of kept ones.

        None if it does not: another one keeps it, it lacks it, or the data has been changed here.
        """
        with _GRAPH:
            return _derivation(self.node, holder)

    def sources(self) -> set[Source]:
        """Return the sources of the tensors that it is made of."""
        with _GRAPH:
            return {root.source for root in _roots(self.node)}

    def data_here(self) -> torch.Tensor:
        """Return the data as a plain tensor, fetched if it is not here. Writes to it are writes to this tensor.

        Raises:
            OffloadError: it could not be fetched, nor computed again.
        """
        return _data(self.node)

    def __reduce_ex__(self, protocol: Any) -> Any:
        """Return a plain tensor's reduction, data included."""
        return self.data_here().__reduce_ex__(protocol)  # type: ignore[no-untyped-call]

    def __deepcopy__(self, memo: dict[int, Any]) -> torch.Tensor:
        """Return a copy, as of a plain tensor."""
        if id(self) in memo:
            found: torch.Tensor = memo[id(self)]
            return found
        memo[id(self)] = made = self.clone()
        return made

    def __hash__(self) -> int:
        """Return the identity, as tensors do."""
        return id(self)

    @classmethod
    def __torch_function__(
        cls, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        """Call a function of torch: a fact, an exact operation, or anything else on the data."""
        return _uncompiled(_answer)(func, args, kwargs or {})

    @classmethod
    def __torch_dispatch__(  # type: ignore[override]  # torch's own stub is that of another function
        cls, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        """Call what torch calls past `__torch_function__`, on the data."""
        return _uncompiled(_on_data)(func, args, kwargs or {})


def _uncompiled(function: Callable[..., Any]) -> Callable[..., Any]:
    """Return a function that `torch.compile` calls and does not look into: it may ask a worker."""
    dynamo = sys.modules.get("torch._dynamo")
    if dynamo is None:  # whose import takes a second
        return function
    if function not in _UNCOMPILED:
        _UNCOMPILED[function] = dynamo.disable(function)
    return _UNCOMPILED[function]


def _answer(func: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
    from . import exact_operations  # noqa: PLC0415  # which imports this module

    made = exact_operations.call(func, args, kwargs)
    return _on_data(func, args, kwargs) if made is NotImplemented else made


def made_by(step: Step | None, tensors: list[KeptTensor], device: torch.device) -> torch.Tensor | None:
    """Return the result of a step on tensors; None if it is not exact, and torch has to say what is wrong.

    Args:
        step: None for a move to `device`.
    """
    nodes = tuple(tensor.node for tensor in tensors)
    if max(node.depth for node in nodes) >= MOST_STEPS:
        return None
    likes = [node.like for node in nodes]
    try:
        like = likes[0] if step is None else outline(apply(step, likes))
    except DerivationError:
        return None
    with _GRAPH:
        node = _Made(like, device, nodes, step)
        if not any(each.real is not None for each in nodes):
            node.link()
            return KeptTensor(node)
        unchanged = all(each.is_as_kept for each in nodes)
    for each in nodes:
        _data(each)
    with _GRAPH:
        node.fill()
        if not unchanged or device.type != "cpu":  # where a hash would take a copy
            return node.real
        node.link()
    return KeptTensor(node)


def _data(node: Node) -> torch.Tensor:
    while True:
        if node.real is not None:
            return node.real
        with _GRAPH:
            nodes = node.connected()
        roots = [each for each in nodes if isinstance(each, _Root) and each.real is None]
        fetched = [root.fetch() for root in roots]
        with _GRAPH:
            for root, data in zip(roots, fetched, strict=True):
                root.take(data)
            nodes = node.connected()
            if any(isinstance(each, _Root) and each.real is None for each in nodes):
                continue  # another thread has joined tensors meanwhile
            for each in nodes:
                if each.real is None:
                    each.fill()


def plain(tensor: torch.Tensor) -> torch.Tensor:
    """Return a tensor's data as a plain tensor: itself, if it is none that a worker keeps.

    Raises:
        OffloadError: the data could not be fetched, nor computed again.
    """
    return tensor.data_here() if isinstance(tensor, KeptTensor) else tensor


def _on_data(func: Callable[..., Any], args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
    """Call `func` with the data in place of kept tensors; the same tensor comes back as the same object."""
    given: list[KeptTensor] = []

    def noted(tensor: KeptTensor) -> torch.Tensor:
        given.append(tensor)
        return tensor.data_here()

    args, kwargs = tree_map_only(KeptTensor, noted, (args, dict(kwargs)))
    result = func(*args, **kwargs)
    if isinstance(result, torch.Tensor):
        return next((tensor for tensor in given if tensor.node.real is result), result)
    return result


def _roots(node: Node) -> list[_Root]:
    ordered: dict[int, Node] = {}
    _visit(node, ordered)
    return [each for each in ordered.values() if isinstance(each, _Root)]


def _derivation(node: Node, holder: object) -> Derivation | bytes | None:
    if not node.is_as_kept:
        return None
    roots = _roots(node)
    if not all(root.source.holder is holder and root.source.is_held and root.is_named for root in roots):
        return None
    sources = list(dict.fromkeys(root.digest for root in roots))
    places: dict[int, int] = {}
    steps: list[Step] = []

    def place(each: Node) -> int:
        if isinstance(each, _Root):
            return sources.index(each.digest)
        if not isinstance(each, _Made) or each.step is None:
            return place(each.parents[0])
        if id(each) not in places:
            inputs = tuple(place(parent) for parent in each.parents)
            places[id(each)] = len(sources) + len(steps)
            steps.append(each.step._replace(inputs=inputs))
        return places[id(each)]

    at = place(node)
    if len(sources) > MOST_SOURCES or len(steps) > MOST_STEPS:
        return None
    return Derivation(tuple(sources), tuple(steps)) if steps else sources[at]


def _hash_of(tensor: torch.Tensor) -> bytes:
    return xxhash.xxh3_128_digest(tensor_bytes(tensor), _SEED)
