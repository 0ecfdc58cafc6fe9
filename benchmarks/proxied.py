"""A worker's port behind a reverse proxy that is installed here, or as it is.

for name in available(options.through):
    with proxied(name, port) as front:
        …
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

sys.path.append(str(Path(__file__).parents[1]))
from tests.support.reverse_proxies import Caddy, Haproxy, Nginx, ReverseProxy

DIRECT = "direct"
_KINDS: dict[str, type[ReverseProxy]] = {kind.name: kind for kind in (Nginx, Haproxy, Caddy)}
NAMES = (DIRECT, *_KINDS)


def available(names: Iterable[str]) -> list[str]:
    """Return those of `NAMES` that can be had on this machine."""
    return [name for name in names if name == DIRECT or _KINDS[name].installed()]


def skipped(names: Iterable[str]) -> list[str]:
    """Return a note for each of them that cannot."""
    return [f"{name} is not installed: left out" for name in names if name not in available([name])]


@contextmanager
def reverse_proxy(name: str, port: int) -> Iterator[ReverseProxy]:
    """Run the proxy of that name, which passes WebSockets, in front of a port of this machine."""
    kind = _KINDS[name]
    with TemporaryDirectory(prefix="comfy-gpu-offload-") as folder:
        front = Nginx(port, Path(folder), upgrades=True) if kind is Nginx else kind(port, Path(folder))
        with front:
            yield front


@contextmanager
def proxied(name: str, port: int) -> Iterator[int]:
    """Yield the port by which `port` is reached through the proxy of that name; itself if `DIRECT`."""
    if name == DIRECT:
        yield port
        return
    with reverse_proxy(name, port) as front:
        yield front.port
