"""The hosts that a worker downloads from, and the network addresses that a name may have."""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass

from ...config.address import Address, is_loopback
from .errors import RefusedSourceError
from .web_address import WebAddress

# Each with all names below it. The last one is the account at Cloudflare that Civitai redirects to.
_KNOWN = (
    "huggingface.co",
    "hf.co",
    "civitai.com",
    "civitai.red",
    "5ac0637cfd0766c97916cefa3764fbdf.r2.cloudflarestorage.com",
)
_HTTPS_PORT = 443
_NAT64 = ipaddress.ip_network("64:ff9b::/96")


@dataclass(frozen=True)
class AllowedHosts:
    """The list of hosts, to which the worker's operator adds some.

    Attributes:
        added: by the operator, each for its own port. An address on this machine is allowed here alone. The others
            may lie in the operator's own network.
    """

    added: tuple[Address, ...] = ()

    def check(self, address: WebAddress) -> None:
        """Check that the worker may ask that address for something.

        Raises:
            RefusedSourceError: it may not; names the host.
        """
        place = address.place
        if self.is_added(place):
            return
        is_known = any(place.host == known or place.host.endswith(f".{known}") for known in _KNOWN)
        if not is_known or not place.is_encrypted or place.tcp_port != _HTTPS_PORT:
            raise RefusedSourceError(
                f"This worker does not download from {place}. It takes models from Hugging Face, Civitai and the "
                "hosts that its operator names in COMFY_GPU_OFFLOAD_DOWNLOAD_HOSTS there. Or send the file itself: "
                "comfy-gpu-offload push."
            )

    def is_added(self, place: Address) -> bool:
        """Return whether the operator has named that host, with that scheme and port."""
        return any(_same(place, each) for each in self.added)

    def check_network_address(self, place: Address, text: str) -> bool:
        """Return whether the worker may connect to the network address `text`, which is one of the host's."""
        address = ipaddress.ip_address(text.partition("%")[0])
        if self.is_added(place):
            # Of a name that the operator gave: its own network, but neither this machine nor a cloud's metadata.
            return is_loopback(place.host) or not (_seen(address).is_loopback or _seen(address).is_link_local)
        return is_public(address)


def is_public(address: ipaddress.IPv4Address | ipaddress.IPv6Address) -> bool:
    """Return whether an address is a single machine's in the public Internet."""
    seen = _seen(address)
    return seen.is_global and not (seen.is_multicast or seen.is_reserved or seen.is_unspecified)


def _same(one: Address, other: Address) -> bool:
    return (one.scheme, one.host, one.tcp_port) == (other.scheme, other.host, other.tcp_port)


def _seen(address: ipaddress.IPv4Address | ipaddress.IPv6Address) -> ipaddress.IPv4Address | ipaddress.IPv6Address:
    """Return the IPv4 address that an IPv6 address stands for, or the address itself."""
    if isinstance(address, ipaddress.IPv4Address):
        return address
    if address in _NAT64:
        return ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)
    teredo = address.teredo
    return address.ipv4_mapped or address.sixtofour or (teredo[1] if teredo else None) or address
