from __future__ import annotations

import os
import threading
from pathlib import Path

import pytest
from tests.support.platforms import needs_posix

from comfy_gpu_offload.config.address import Address
from comfy_gpu_offload.config.pairing import Pairing
from comfy_gpu_offload.errors import ConfigError
from comfy_gpu_offload.server.http.tokens import token_digest
from comfy_gpu_offload.server.pairing import pairings as module
from comfy_gpu_offload.server.pairing.pairings import IssuedPairing, Pairings


def digest(pairing: IssuedPairing) -> bytes:
    return token_digest(pairing.token.get_secret_value())


def test_a_name_has_one_token_until_it_is_revoked(tmp_path: Path) -> None:
    pairings = Pairings(tmp_path)
    first = pairings.issue()
    assert pairings.issue() == first
    laptop = pairings.issue("laptop")
    assert laptop.token != first.token
    assert [each.name for each in pairings.all()] == ["default", "laptop"]
    pairings.revoke("default")
    assert pairings.all() == (laptop,)
    assert pairings.issue().token != first.token


def test_a_token_fits_into_a_line(tmp_path: Path) -> None:
    token = Pairings(tmp_path).issue().token
    line = Pairing(Address("https", "h", 1), token, bytes(32)).line()
    assert Pairing.parse(line).token == token


@needs_posix
def test_its_file_is_this_users_alone(tmp_path: Path) -> None:
    Pairings(tmp_path).issue("laptop")
    (file,) = tmp_path.iterdir()
    assert file.stat().st_mode & 0o777 == 0o600


def test_tokens_are_in_force_as_soon_as_the_folder_has_changed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By another process, as the command is: two objects that share nothing but the folder."""
    monkeypatch.setattr(module, "monotonic", lambda: 0.0)  # so that time is not what makes it read again
    worker, command = Pairings(tmp_path), Pairings(tmp_path)
    assert worker.digests() == frozenset()
    first = command.issue()
    settle(tmp_path)
    assert worker.digests() == {digest(first)}
    second = command.issue("laptop")
    settle(tmp_path)
    assert worker.digests() == {digest(first), digest(second)}
    command.revoke("default")
    settle(tmp_path)
    assert worker.digests() == {digest(second)}


def settle(folder: Path) -> None:
    """Give the folder another time, as the clock of the file system does a moment later."""
    found = folder.stat()
    os.utime(folder, ns=(found.st_atime_ns, found.st_mtime_ns + 1))


def test_a_change_that_the_folders_time_does_not_show_is_found_a_little_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [0.0]
    monkeypatch.setattr(module, "monotonic", lambda: now[0])
    pairings = Pairings(tmp_path)
    pairings.issue()
    found = tmp_path.stat()
    assert len(pairings.digests()) == 1
    Pairings(tmp_path).revoke("default")
    os.utime(tmp_path, ns=(found.st_atime_ns, found.st_mtime_ns))
    now[0] += 3
    assert pairings.digests() == frozenset()


def test_without_its_folder_nobody_is_let_in(tmp_path: Path) -> None:
    folder = tmp_path / "pairing"
    folder.mkdir()
    pairings = Pairings(folder)
    pairings.issue()
    assert pairings.digests()
    folder.rename(tmp_path / "moved")
    assert pairings.digests() == frozenset()


def test_a_damaged_pairing_lets_nobody_in_and_is_named_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    pairings = Pairings(tmp_path)
    good, bad = pairings.issue("good"), pairings.issue("bad")
    (tmp_path / "pairing-bad.json").write_text('{"token": "short", "made": "2026-01-01T00:00:00Z"}')
    assert Pairings(tmp_path).digests() == {digest(good)}
    assert pairings.all() == pairings.all() == (good,)
    with pytest.raises(ConfigError, match="revoke 'bad'"):
        pairings.issue("bad")
    assert sum("pairing-bad.json" in line for line in caplog.messages) == 2  # one for each object
    assert "short" not in caplog.text
    pairings.revoke("bad")
    assert pairings.issue("bad").token != bad.token


def test_names_that_two_ask_for_at_once_are_one_pairing(tmp_path: Path) -> None:
    begin, issued = threading.Barrier(8), list[IssuedPairing]()

    def issue() -> None:
        begin.wait(60)
        issued.append(Pairings(tmp_path).issue("laptop"))

    threads = [threading.Thread(target=issue) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert len(issued) == 8
    assert len({each.token for each in issued}) == 1


@pytest.mark.parametrize("name", ["", " ", "../x", "a/b", "a\\b", ".hidden", "x" * 41, "ä", "a b", "a\0"])
def test_a_name_that_could_be_no_file_is_refused(tmp_path: Path, name: str) -> None:
    pairings = Pairings(tmp_path)
    for act in (pairings.issue, pairings.revoke):
        with pytest.raises(ConfigError, match="cannot be a pairing's name"):
            act(name)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["con", "nul.txt", "gpu-box.local", "Anna_2"])
def test_other_names_are_taken_in_lower_case(tmp_path: Path, name: str) -> None:
    pairings = Pairings(tmp_path)
    assert pairings.issue(name) == pairings.issue(name.lower())
    assert [each.name for each in pairings.all()] == [name.lower()]


def test_to_revoke_what_is_not_there_names_those_that_are(tmp_path: Path) -> None:
    pairings = Pairings(tmp_path)
    with pytest.raises(ConfigError, match="none at all"):
        pairings.revoke("laptop")
    pairings.issue("desk")
    with pytest.raises(ConfigError, match="there is: desk"):
        pairings.revoke("laptop")


def test_no_representation_shows_a_token(tmp_path: Path) -> None:
    issued = Pairings(tmp_path).issue()
    assert issued.token.get_secret_value() not in repr(issued)
