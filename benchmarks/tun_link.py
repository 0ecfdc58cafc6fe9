"""A link with real TCP on it: two network namespaces, a TUN device in each, packets carried between them in Python.

Nothing is changed in the namespace of this machine, and nothing is left when the link ends. A connection to the
near port goes on as one from the near namespace to the far one, so that slow starts, and congestion windows that
shrink while nothing is sent, are the kernel's own: by the congestion control that is named, whatever the ends ask
for. Rates hold to a few percent up to some 300 Mbit/s. Linux, as root.
"""

from __future__ import annotations

import ctypes
import fcntl
import os
import select
import signal
import socket
import struct
import subprocess
import sys
import threading
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from time import perf_counter
from typing import IO, cast

_DEVICE = "/dev/net/tun"
_CLONE_NEWNET = 0x40000000  # linux/sched.h
_TUNSETIFF, _IFF_TUN_NO_PI = 0x400454CA, 0x1001  # linux/if_tun.h
_SET_DEATH_SIGNAL = 1  # linux/prctl.h
_START_S = 30.0
_NAME, _NEAR, _FAR, _PORT = "link0", "10.77.0.1", "10.77.0.2", 7777
_MTU = 1500
# What almost every system has; with BBR pauses cost less than they do most users.
CONGESTION_CONTROL = "cubic"
# What a router at the narrow place keeps before it drops, in seconds, and bytes at least: as home routers do.
_QUEUE_S, _QUEUE_BYTES = 0.2, 256 * 1024


class NoTunLinkError(RuntimeError):
    """Raised where this system does not allow namespaces or TUN devices."""


@contextmanager
def tun_link(
    round_trip_s: float, up: float, down: float, port: int, *, congestion: str = CONGESTION_CONTROL
) -> Iterator[int]:
    """Yield the port at which `port` of this machine is reached over such a link; rates in bytes per second.

    Raises:
        NoTunLinkError: not possible here.
    """
    asked = [str(each) for each in (round_trip_s, up, down, port, congestion)]
    # A program of its own, without what the benchmark has imported: threads of numerical libraries do not always
    # survive the fork below, and then the link never begins.
    command = [sys.executable, __file__, *asked]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)  # noqa: S603
    with cast(IO[bytes], process.stdin) as told, cast(IO[bytes], process.stdout) as said:
        try:
            yield _near_port(said)
        finally:
            told.close()  # which ends the link
            try:
                process.wait(5)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def _near_port(said: IO[bytes]) -> int:
    """Return the port that the link's process says, or raise the reason for which there is none."""
    is_heard = select.select([said], (), (), _START_S)[0]
    line = said.readline().decode().strip() if is_heard else f"it did not begin within {_START_S:.0f} s"
    if not line.isdecimal():
        raise NoTunLinkError(f"there is no TUN link here: {line or 'it ended before it began'}")
    return int(line)


def is_possible() -> bool:
    """Return whether a TUN link can be made here, by trying."""
    if not os.path.exists(_DEVICE):
        return False
    try:
        with tun_link(0.001, 1e6, 1e6, 9):
            return True
    except NoTunLinkError:
        return False


@dataclass(frozen=True)
class _Asked:
    """The arguments of `tun_link`."""

    round_trip_s: float
    up: float
    down: float
    port: int
    congestion: str


def _run(asked: _Asked) -> None:
    """Run the link's process: make the namespaces, fork the carrier of packets, and pass connections on."""
    try:
        root = _this_namespace()
        near, near_tun = _namespace(_NEAR, _FAR)
        _, far_tun = _namespace(_FAR, _NEAR)
        listener = _controlled(socket.create_server((_FAR, _PORT)), asked.congestion)
        _enter(root)
        entry = socket.create_server(("127.0.0.1", 0))
    except (OSError, subprocess.SubprocessError) as error:
        print(f"{type(error).__name__}: {error}", flush=True)
        return
    link = os.getpid()
    carrier = os.fork()
    if not carrier:
        _end_with(link)
        one_way_s = asked.round_trip_s / 2
        _carry_packets(_Way(near_tun, far_tun, one_way_s, asked.up), _Way(far_tun, near_tun, one_way_s, asked.down))
        os._exit(0)
    inward = _Onward(near, (_FAR, _PORT), asked.congestion)
    outward = _Onward(root, ("127.0.0.1", asked.port), asked.congestion)
    threading.Thread(target=_accept, args=(entry, inward), daemon=True).start()
    threading.Thread(target=_accept, args=(listener, outward), daemon=True).start()
    print(entry.getsockname()[1], flush=True)
    sys.stdin.buffer.read()  # until the benchmark closes it, or ends
    os.kill(carrier, signal.SIGKILL)
    os.waitpid(carrier, 0)
    os._exit(0)


def _end_with(parent: int) -> None:
    """Have this process killed when its parent ends, however that happens."""
    _checked(ctypes.CDLL(None, use_errno=True).prctl(_SET_DEATH_SIGNAL, signal.SIGKILL))
    if os.getppid() != parent:  # it has ended already
        os._exit(1)


def _this_namespace() -> int:
    return os.open("/proc/thread-self/ns/net", os.O_RDONLY)


def _enter(namespace: int) -> None:
    """Move this thread to a namespace. What it opens there stays there when the thread moves on."""
    _checked(ctypes.CDLL(None, use_errno=True).setns(namespace, _CLONE_NEWNET))


def _checked(result: int) -> None:
    if result:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


def _namespace(address: str, peer: str) -> tuple[int, int]:
    """Make a namespace and move this thread to it; return it, and the open TUN device in it."""
    _checked(ctypes.CDLL(None, use_errno=True).unshare(_CLONE_NEWNET))
    tun = os.open(_DEVICE, os.O_RDWR | os.O_NONBLOCK)
    fcntl.ioctl(tun, _TUNSETIFF, struct.pack("16sH22x", _NAME.encode(), _IFF_TUN_NO_PI))
    for command in (
        f"ip address add {address} peer {peer} dev {_NAME}",
        f"ip link set {_NAME} mtu {_MTU} txqueuelen 5000 up",
    ):
        subprocess.run(command.split(), check=True, capture_output=True)  # noqa: S603  # fixed words
    return _this_namespace(), tun


@dataclass
class _Way:
    """One direction: packets leave at the rate, one after another, and arrive a delay later."""

    source: int
    sink: int
    delay_s: float
    rate: float
    free_at: float = 0.0
    under_way: deque[tuple[float, bytes]] = field(default_factory=deque)

    def take(self, now: float) -> None:
        """Take the packets that the source's kernel has sent; a full queue drops some, as a router does."""
        longest_s = max(_QUEUE_S, _QUEUE_BYTES / self.rate)
        with suppress(BlockingIOError):
            while True:
                packet = os.read(self.source, _MTU)
                if self.free_at - now > longest_s:
                    continue
                self.free_at = max(now, self.free_at) + len(packet) / self.rate
                self.under_way.append((self.free_at + self.delay_s, packet))

    def give(self, now: float) -> None:
        """Hands the packets over that have arrived."""
        while self.under_way and self.under_way[0][0] <= now:
            with suppress(BlockingIOError):
                os.write(self.sink, self.under_way.popleft()[1])


def _carry_packets(*ways: _Way) -> None:
    sources = [way.source for way in ways]
    while True:
        due = min((way.under_way[0][0] for way in ways if way.under_way), default=None)
        wait = None if due is None else max(0.0, due - perf_counter())
        ready, _, _ = select.select(sources, (), (), wait)
        for way in ways:
            if way.source in ready:
                way.take(perf_counter())
            way.give(perf_counter())


@dataclass(frozen=True)
class _Onward:
    """The target of a connection, and the namespace that it is reached from."""

    namespace: int
    address: tuple[str, int]
    congestion: str


def _accept(listener: socket.socket, onward: _Onward) -> None:
    while True:
        connection, _ = listener.accept()
        threading.Thread(target=_hand_on, args=(connection, onward), daemon=True).start()


def _hand_on(near: socket.socket, onward: _Onward) -> None:
    _enter(onward.namespace)
    far = _controlled(socket.socket(), onward.congestion)
    try:
        far.connect(onward.address)
    except OSError:
        near.close()
        return
    for sock in (near, far):
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    back = threading.Thread(target=_copy, args=(far, near), daemon=True)
    back.start()
    _copy(near, far)
    back.join()
    near.close()
    far.close()


def _controlled(sock: socket.socket, congestion: str) -> socket.socket:
    """With that congestion control, where the system has it; its accepted connections have it too."""
    with suppress(OSError):  # built without it
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_CONGESTION, congestion.encode())
    return sock


def _copy(source: socket.socket, sink: socket.socket) -> None:
    view = memoryview(bytearray(256 * 1024))
    with suppress(OSError):
        while count := source.recv_into(view):
            sink.sendall(view[:count])
        sink.shutdown(socket.SHUT_WR)


if __name__ == "__main__":
    _run(_Asked(float(sys.argv[1]), float(sys.argv[2]), float(sys.argv[3]), int(sys.argv[4]), sys.argv[5]))
