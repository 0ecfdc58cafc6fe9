"""A Python without what Windows does not have, as far as attributes go: importing this module hides them.

In a process of its own, or for a whole run: `PYTHONPATH=. pytest -p tests.support.without_posix -m "not comfyui"`.
"""

from __future__ import annotations

import asyncio  # noqa: F401
import os
import select
import selectors  # noqa: F401
import signal
import socket
import subprocess  # noqa: F401
import sys
from typing import Any

# Imported, as asyncio, selectors and subprocess are, while all is there: these are other code on Windows.
import psutil  # noqa: F401
import torch  # noqa: F401

_MODULES = ("fcntl", "grp", "pty", "pwd", "resource", "termios")
_ATTRIBUTES: dict[Any, tuple[str, ...]] = {
    os: (
        *("fork", "forkpty", "getegid", "geteuid", "getgid", "killpg", "mkfifo", "register_at_fork"),
        "setuid",
    ),
    select: ("poll", "POLLIN", "POLLHUP", "POLLRDHUP"),
    signal: ("SIGALRM", "SIGHUP", "SIGPIPE", "SIGUSR1", "SIGUSR2", "alarm", "setitimer"),
    socket: (
        *("AF_UNIX", "MSG_DONTWAIT", "MSG_NOSIGNAL", "SO_REUSEPORT", "TCP_CONGESTION", "TCP_USER_TIMEOUT"),
        *("send_fds", "recv_fds"),
    ),
}


def _socketpair(*_: object) -> tuple[socket.socket, socket.socket]:
    """Return two connected sockets; Windows has none of AF_UNIX, and Python connects two of TCP."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        near = socket.create_connection(listener.getsockname())
        far, _ = listener.accept()
    return near, far


def _absent(_: socket.socket) -> None:
    raise AttributeError


for module in _MODULES:
    sys.modules[module] = None  # type: ignore[assignment]
for owner, names in _ATTRIBUTES.items():
    for name in names:
        if hasattr(owner, name):
            delattr(owner, name)
for method in ("sendmsg", "recvmsg"):
    setattr(socket.socket, method, property(_absent))
socket.socketpair = _socketpair  # type: ignore[assignment]
