"""A link of a given round trip and rates, emulated on this machine in one of two ways.

`tun`: real TCP between two network namespaces, with its slow starts and its congestion windows that shrink while
nothing is sent; where the system allows it (Linux, as root). `threads`: a proxy, which hides all of this.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Literal

from comfy_gpu_offload.tuning.link import Link
from thread_link import thread_link

Kind = Literal["tun", "threads"]


@cache
def best_kind() -> Kind:
    """`tun` where this system allows it."""
    try:
        from tun_link import is_possible  # noqa: PLC0415  # its imports are Linux's
    except ImportError:
        return "threads"
    return "tun" if is_possible() else "threads"


def described(kind: Kind) -> str:
    """Return the line of an output about the links that it was measured over."""
    if kind == "tun":
        return "links: real TCP over TUN devices between two network namespaces"
    return "links: a proxy of threads, without TCP's slow starts"


@contextmanager
def emulated(link: Link, port: int, kind: Kind | None = None, congestion: str = "cubic") -> Iterator[int]:
    """Yield the port at which `port` of this machine is reached over `link`; by default the best kind of link.

    `congestion`: control of it, at both ends of real TCP.

    Raises:
        NoTunLinkError: `tun` was asked for, and this system does not allow it.
    """
    if (kind or best_kind()) == "tun":
        from tun_link import tun_link  # noqa: PLC0415  # its imports are Linux's

        made = tun_link(link.round_trip_s, link.up_bytes_s, link.down_bytes_s, port, congestion=congestion)
    else:
        made = thread_link(link.round_trip_s, link.up_bytes_s, link.down_bytes_s, port)
    with made as near:
        yield near
