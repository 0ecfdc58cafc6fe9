from __future__ import annotations

import hashlib
import ssl
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from tests.support.platforms import needs_posix
from tests.support.process import environment

from comfy_gpu_offload.errors import ConfigError
from comfy_gpu_offload.server.pairing.certificate import certificate_in


def test_it_is_made_once_and_does_not_expire(tmp_path: Path) -> None:
    made = certificate_in(tmp_path)
    file = tmp_path / "worker.pem"
    parsed = x509.load_pem_x509_certificate(file.read_bytes())
    assert isinstance(parsed.public_key(), ec.EllipticCurvePublicKey)
    assert made.fingerprint == parsed.fingerprint(hashes.SHA256())
    assert parsed.not_valid_before_utc < datetime.now(UTC)
    assert parsed.not_valid_after_utc.year == 9999
    assert certificate_in(tmp_path).fingerprint == made.fingerprint
    assert certificate_in(_other(tmp_path)).fingerprint != made.fingerprint


def _other(tmp_path: Path) -> Path:
    (tmp_path / "other").mkdir()
    return tmp_path / "other"


def test_a_handshake_shows_the_certificate_of_the_fingerprint(tmp_path: Path) -> None:
    certificate = certificate_in(tmp_path)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    ends = [ssl.MemoryBIO() for _ in range(2)]
    client = context.wrap_bio(ends[0], ends[1])
    server = certificate.tls.wrap_bio(ends[1], ends[0], server_side=True)
    for _ in range(4):
        for side in (client, server):
            try:
                side.do_handshake()
            except ssl.SSLWantReadError:
                continue
    shown = client.getpeercert(binary_form=True)
    assert shown is not None
    assert hashlib.sha256(shown).digest() == certificate.fingerprint


@needs_posix
def test_its_file_is_this_users_alone(tmp_path: Path) -> None:
    certificate_in(tmp_path)
    file = tmp_path / "worker.pem"
    assert file.stat().st_mode & 0o777 == 0o600
    file.chmod(0o644)
    with pytest.raises(ConfigError, match="chmod 600"):
        certificate_in(tmp_path)


def test_a_damaged_file_is_named_and_not_replaced(tmp_path: Path) -> None:
    certificate_in(tmp_path)
    file = tmp_path / "worker.pem"
    whole = file.read_bytes()
    for damaged in (b"", b"\xff", whole[:100], whole[: len(whole) // 2], whole.replace(b"PRIVATE", b"PUBLIC")):
        file.write_bytes(damaged)
        with pytest.raises(ConfigError, match="delete it to have new ones made"):
            certificate_in(tmp_path)
        assert file.read_bytes() == damaged


def test_a_worker_that_has_one_needs_no_library_to_make_it(tmp_path: Path) -> None:
    certificate_in(tmp_path)
    code = (
        "import sys\nfrom pathlib import Path\n"
        "from comfy_gpu_offload.server.pairing.certificate import certificate_in\n"
        "print(certificate_in(Path(sys.argv[1])).fingerprint.hex(), 'cryptography' in sys.modules)"
    )
    command = [sys.executable, "-c", code, str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=environment())
    assert done.stdout.split() == [certificate_in(tmp_path).fingerprint.hex(), "False"]
