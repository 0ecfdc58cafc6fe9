"""The pairing line of a worker: its address, a token and its certificate's fingerprint in one text to paste.

    comfy-gpu-offload://HOST:PORT/#1…

The fragment is the form's version, 1, and base64url of 60 bytes: a token (24), the SHA-256 of the certificate's DER
(32), and a CRC-32 of both (4), by which a line that was cut or mistyped is told. Host and port are not in it: for a
worker that has moved they are changed in the line, and nothing else.
"""

from __future__ import annotations

import base64
import re
import zlib
from dataclasses import dataclass
from typing import Final

from pydantic import SecretStr

from .address import HTTPS, Address

SCHEME: Final = "comfy-gpu-offload"
TOKEN_BYTES: Final = 24
FINGERPRINT_BYTES: Final = 32
_VERSION = "1"
_CHECKSUM_BYTES = 4
_LENGTH = len(_VERSION) + (TOKEN_BYTES + FINGERPRINT_BYTES + _CHECKSUM_BYTES) * 4 // 3
_FORM = f"a pairing line looks like {SCHEME}://HOST:PORT/#{_VERSION}…, as `worker --share` prints it"
_AGAIN = "copy it again from the worker, whole and alone; nothing but host and port may be changed"


@dataclass(frozen=True)
class Pairing:
    """The parts of a pairing line. `str()` and `repr()` show no token; `line()` is the line itself.

    Attributes:
        address: the worker's, with a port.
        token: base64url of 24 random bytes, as it is sent as a bearer.
        fingerprint: the SHA-256 of the worker's certificate, 32 bytes.
    """

    address: Address
    token: SecretStr
    fingerprint: bytes

    def __post_init__(self) -> None:
        """Refuse parts that no line could hold.

        Raises:
            ValueError: they are no such parts.
        """
        has_address = self.address.scheme == HTTPS and self.address.port is not None and not self.address.path
        if not has_address or len(self.fingerprint) != FINGERPRINT_BYTES:
            raise ValueError(_FORM)
        _decoded(self.token.get_secret_value(), TOKEN_BYTES)

    @classmethod
    def parse(cls, text: str) -> Pairing:
        """Return the parts of a line. Spaces and line breaks that copying put into it are dropped.

        Raises:
            ValueError: it is no whole line; the text says what to do, and holds nothing of the line.
        """
        scheme, _, rest = "".join(text.split()).partition("://")
        place, mark, secret = rest.partition("#")
        if scheme.lower() != SCHEME or not mark:
            raise ValueError(f"{_FORM}: {_AGAIN}")
        address = Address.parse(f"{HTTPS}://{place}")
        if address.port is None or address.path:
            raise ValueError(f"{_FORM}, with a port and without a path")
        if secret[:1] not in {"", _VERSION}:
            raise ValueError("this pairing line is of another release: update comfy-gpu-offload here")
        counts = f"{len(secret)} characters after the #, not {_LENGTH}"
        if len(secret) < _LENGTH:
            raise ValueError(f"the pairing line was cut ({counts}): {_AGAIN}")
        if len(secret) > _LENGTH:
            raise ValueError(f"the pairing line has something behind it ({counts}): {_AGAIN}")
        payload = _decoded(secret[len(_VERSION) :], TOKEN_BYTES + FINGERPRINT_BYTES + _CHECKSUM_BYTES)
        content, checksum = payload[:-_CHECKSUM_BYTES], payload[-_CHECKSUM_BYTES:]
        if _checksum(content) != checksum:
            raise ValueError(f"the pairing line was changed after the #: {_AGAIN}")
        return cls(address, SecretStr(_encoded(content[:TOKEN_BYTES])), content[TOKEN_BYTES:])

    def line(self) -> str:
        """Return the line, which whoever is to use the worker needs and nobody else may see."""
        content = _decoded(self.token.get_secret_value(), TOKEN_BYTES) + self.fingerprint
        return f"{self._place}{_VERSION}{_encoded(content + _checksum(content))}"

    def __str__(self) -> str:
        return f"{self._place}…"

    @property
    def _place(self) -> str:
        return f"{SCHEME}://{self.address.authority}/#"


def is_pairing_line(text: str) -> bool:
    """Return whether `text` is meant as a pairing line, whole or not."""
    return text.lstrip().lower().startswith(f"{SCHEME}:")


def _checksum(content: bytes) -> bytes:
    return zlib.crc32(content).to_bytes(_CHECKSUM_BYTES, "big")


def _encoded(content: bytes) -> str:
    return base64.urlsafe_b64encode(content).decode("ascii")


def _decoded(text: str, size: int) -> bytes:
    """Return the `size` bytes, a multiple of three, that base64url encodes as `text`."""
    if len(text) != size * 4 // 3 or re.fullmatch(r"[A-Za-z0-9_-]*", text) is None:
        raise ValueError(f"the pairing line has a character that none has after the #: {_AGAIN}")
    return base64.urlsafe_b64decode(text)
