from __future__ import annotations

import pytest
from pydantic import SecretStr

from comfy_gpu_offload.config.address import Address
from comfy_gpu_offload.config.pairing import Pairing, is_pairing_line

TOKEN = "AQIDBAUGBwgJCgsMDQ4PEBESExQVFhcY"
PAIRING = Pairing(Address("https", "192.168.1.7", 8288), SecretStr(TOKEN), bytes(range(100, 132)))
# As the first release wrote it: a line that somebody pasted once goes on working.
LINE = (
    "comfy-gpu-offload://192.168.1.7:8288/#"
    "1AQIDBAUGBwgJCgsMDQ4PEBESExQVFhcYZGVmZ2hpamtsbW5vcHFyc3R1dnd4eXp7fH1-f4CBgoNOtovr"
)


def test_the_form_of_a_line_stays() -> None:
    assert PAIRING.line() == LINE
    assert Pairing.parse(LINE) == PAIRING


@pytest.mark.parametrize("host", ["gpu-box", "gpu-box.local", "10.0.0.9", "[fd00::7]"])
def test_a_host_changed_in_the_line_changes_nothing_else(host: str) -> None:
    moved = Pairing.parse(LINE.replace("192.168.1.7", host))
    assert str(moved.address) == f"https://{host}:8288"
    assert (moved.token, moved.fingerprint) == (PAIRING.token, PAIRING.fingerprint)
    assert Pairing.parse(moved.line()) == moved


@pytest.mark.parametrize(
    "copied", [f"  {LINE}\n", f"{LINE[:50]}\r\n{LINE[50:]}", LINE.replace("comfy-gpu", "Comfy-GPU")]
)
def test_what_copying_adds_is_dropped(copied: str) -> None:
    assert is_pairing_line(copied)
    assert Pairing.parse(copied) == PAIRING


def test_a_line_cut_anywhere_is_refused() -> None:
    for length in range(len("comfy-gpu-offload://"), len(LINE)):
        with pytest.raises(ValueError, match="copy it again") as caught:
            Pairing.parse(LINE[:length])
        assert TOKEN[:8] not in str(caught.value)


@pytest.mark.parametrize("typed", ["A", "B", ""])
def test_a_character_mistyped_or_lost_is_noticed(typed: str) -> None:
    for place in range(LINE.index("#") + 2, len(LINE)):
        if LINE[place] != typed:
            with pytest.raises(ValueError, match="copy it again"):
                Pairing.parse(LINE[:place] + typed + LINE[place + 1 :])


@pytest.mark.parametrize(
    ("line", "says"),
    [
        (LINE.replace("/#1", "/#2"), "update comfy-gpu-offload"),
        (LINE + "x", "something behind it"),
        (LINE.replace("-f4", "+f4"), "a character that none has"),
        (LINE.replace(":8288", ""), "with a port"),
        (LINE.replace("/#", "/path#"), "without a path"),
        (LINE.replace("192.168.1.7", "me@192.168.1.7"), "no user"),
        (LINE.replace(":8288", ":0"), "from 1 to 65535"),
        (LINE.replace("#", ""), "HOST:PORT"),
        ("comfy-gpu-offload:", "HOST:PORT"),
    ],
)
def test_what_is_wrong_is_said_and_nothing_of_the_line_shown(line: str, says: str) -> None:
    with pytest.raises(ValueError, match=says) as caught:
        Pairing.parse(line)
    assert TOKEN[4:] not in str(caught.value)


def test_no_text_of_it_shows_the_token() -> None:
    for text in (str(PAIRING), repr(PAIRING), f"{PAIRING}"):
        assert TOKEN not in text
    assert str(PAIRING) == "comfy-gpu-offload://192.168.1.7:8288/#…"


@pytest.mark.parametrize(
    "parts",
    [
        (Address("http", "h", 1), SecretStr(TOKEN), bytes(32)),
        (Address("https", "h"), SecretStr(TOKEN), bytes(32)),
        (Address("https", "h", 1, "/path"), SecretStr(TOKEN), bytes(32)),
        (Address("https", "h", 1), SecretStr("short"), bytes(32)),
        (Address("https", "h", 1), SecretStr(TOKEN), bytes(31)),
    ],
)
def test_parts_that_no_line_holds_are_refused(parts: tuple[Address, SecretStr, bytes]) -> None:
    with pytest.raises(ValueError, match="pairing line"):
        Pairing(*parts)
