"""A share: all that lets other machines use this worker, and the line by which they do."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from ...config.address import HTTPS, Address
from ...config.pairing import Pairing
from ...config.private_files import private_folder
from .certificate import Certificate, certificate_in
from .own_addresses import own_addresses
from .pairings import DEFAULT_NAME, IssuedPairing, Pairings

EVERYWHERE = "::"
"""Host to listen on: all networks of this machine, by IPv6 and IPv4."""
_WILDCARDS = frozenset({EVERYWHERE, "0.0.0.0", ""})  # noqa: S104  # nosec B104


@dataclass(frozen=True)
class Share:
    """A worker's certificate, its pairings, and the one whose line is shown now."""

    certificate: Certificate
    pairings: Pairings
    pairing: IssuedPairing

    def line(self, address: Address) -> str:
        """Return the line that lets a client use the worker at `address`."""
        return Pairing(address, self.pairing.token, self.certificate.fingerprint).line()


def open_share(folder: Path | None, name: str = DEFAULT_NAME) -> Share:
    """Return the share with the pairing of that name. Key, certificate and pairing are made if there are none yet.

    Args:
        folder: where they are kept; None for a folder of this user's own.
        name: of the pairing.

    Raises:
        ConfigError: the folder cannot be used, or the name.
        ModuleNotFoundError: the package that makes certificates is not installed.
    """
    private = private_folder(folder)
    certificate, pairings = certificate_in(private), Pairings(private)
    return Share(certificate, pairings, pairings.issue(name))


def shared_addresses(host: str, port: int, shown: Address | None = None) -> tuple[Address, ...]:
    """Return the addresses for a share's line, the best first.

    Args:
        host: that is listened on.
        port: the same.
        shown: the address that others use in place of it, as a router's; None for this machine's own.
    """
    if shown is not None:
        return (Address(HTTPS, shown.host, shown.port or port),)
    hosts = own_addresses() if host in _WILDCARDS else (host,)
    return tuple(Address(HTTPS, each, port) for each in hosts)
