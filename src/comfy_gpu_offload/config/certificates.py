"""Trusted certificates: one rule for RunPod's API, for its endpoints, and for workers that are not paired.

The system's are trusted (or those of SSL_CERT_FILE, as OpenSSL has it), certifi's, because Python finds none on
some systems, and those in COMFY_GPU_OFFLOAD_CA_FILE, else REQUESTS_CA_BUNDLE.
"""

from __future__ import annotations

import hashlib
import os
import ssl
from pathlib import Path

import certifi

from ..errors import ConfigError

CA_VARIABLE = "COMFY_GPU_OFFLOAD_CA_FILE"
_BUNDLE_VARIABLE = "REQUESTS_CA_BUNDLE"

# OpenSSL's X509_V_ERR_*, which the ssl module does not name: x509_vfy.h.
_NOT_YET_VALID, _EXPIRED = 9, 10
_UNKNOWN_CA = frozenset({2, 18, 19, 20, 21, 27})
_WRONG_NAME = frozenset({62, 64})


def tls_context(ca_file: Path | None = None) -> ssl.SSLContext:
    """Return the TLS context of a client, which checks certificates by this rule.

    Raises:
        ConfigError: `ca_file` (or the file that REQUESTS_CA_BUNDLE names) holds no certificates.
    """
    context = ssl.create_default_context()
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.load_verify_locations(cafile=certifi.where())
    variable, path = CA_VARIABLE, ca_file
    if path is None and os.environ.get(_BUNDLE_VARIABLE):
        variable, path = _BUNDLE_VARIABLE, Path(os.environ[_BUNDLE_VARIABLE])
    if path is not None:
        try:
            if path.is_dir():
                context.load_verify_locations(capath=path)
            else:
                context.load_verify_locations(cafile=path)
        except OSError as error:
            raise ConfigError(f"{variable}: no certificates in {path}") from error
    return context


def unchecked_context() -> ssl.SSLContext:
    """Return the TLS context of a client that looks at the certificate itself, once the handshake is done.

    The other side has proved by then that it has the certificate's key.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    return context


def fingerprint_of(certificate: bytes) -> bytes:
    """Return the fingerprint of a certificate (DER): its SHA-256, 32 bytes."""
    return hashlib.sha256(certificate).digest()


def untrusted(error: ssl.SSLCertVerificationError, peer: str, host: str) -> str:
    """Return why the certificate of `peer` was not accepted, and what to do. `host`: the name it was asked for."""
    what = f"{peer} did not prove to be who it says"
    code = error.verify_code
    if code == _EXPIRED:
        return f"{what}: its certificate has expired. Renew it there; if it is new, set this machine's clock."
    if code == _NOT_YET_VALID:
        return f"{what}: its certificate is not valid yet. Set the clock: this machine's, or that of its maker."
    if code in _WRONG_NAME:
        return (
            f"{what}: its certificate is for another name than {host}. Use an address that it is for, or make one "
            f"for {host} (subjectAltName)."
        )
    if code in _UNKNOWN_CA:
        return (
            f"{what}: this machine does not know who signed its certificate. For a worker of your own, paste the "
            "line that it prints with --share in place of its address; for a company's proxy that reads https, or "
            f"for a certificate of your own, name the file of the signer's certificate in {CA_VARIABLE}."
        )
    return f"{what}: its certificate was not accepted ({error.verify_message})."
