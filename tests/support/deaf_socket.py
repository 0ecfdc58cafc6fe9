"""A socket that loses all that arrives, so that its peer finds nobody there, as after a power cut."""

from __future__ import annotations

import ctypes
import socket
import struct
import sys

# Of Linux's asm-generic/socket.h; Python does not name it.
_SO_ATTACH_FILTER = 26
_RETURN = 0x06

POSSIBLE = sys.platform == "linux" and hasattr(socket, "TCP_USER_TIMEOUT")


def make_deaf(sock: socket.socket) -> None:
    """Have the system throw away whatever arrives for `sock`: it is not even acknowledged."""
    nothing = ctypes.create_string_buffer(struct.pack("HBBI", _RETURN, 0, 0, 0))
    sock.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_FILTER, struct.pack("HL", 1, ctypes.addressof(nothing)))
