"""Types of command-line arguments that are checked before a command begins its work."""

from __future__ import annotations

import argparse
import re
import tempfile
from collections.abc import Callable, Collection
from pathlib import Path

from ..tuning.link import Link

_LINK = re.compile(r"([^/]+)/([^/]+)/([^/]+?)(?:/([^/%]+)%)?")
_LINK_ADVICE = "give MS/MBIT/MBIT, as 40/20/100, and where packets are lost their share, as 40/20/100/1%"


def whole_number(least: int, most: int) -> Callable[[str], int]:
    """Return a reader of whole numbers from `least` to `most`."""

    def read(text: str) -> int:
        try:
            number = int(text)
        except ValueError:
            raise argparse.ArgumentTypeError(f"{text!r} is not a whole number") from None
        if not least <= number <= most:
            raise argparse.ArgumentTypeError(f"{number} is not from {least} to {most}")
        return number

    return read


def number(least: float, most: float) -> Callable[[str], float]:
    """Return a reader of numbers from `least` to `most`."""

    def read(text: str) -> float:
        try:
            value = float(text)
        except ValueError:
            raise argparse.ArgumentTypeError(f"{text!r} is not a number") from None
        if not least <= value <= most:  # also where it is no number (nan)
            raise argparse.ArgumentTypeError(f"{text} is not from {least:g} to {most:g}")
        return value

    return read


def link(text: str) -> Link:
    """Return the link that ``MS/MBIT/MBIT`` describes: round trip, up, down; a fourth part, as ``1%``, is loss.

    Raises:
        argparse.ArgumentTypeError: it is not of that form, or no link is like that.
    """
    parts = _LINK.fullmatch(text)
    if parts is None:
        raise argparse.ArgumentTypeError(f"{text!r} is no link: {_LINK_ADVICE}")
    mbit = number(0.01, 1_000_000)
    try:
        return Link(
            number(0, 10_000)(parts[1]) / 1e3,
            mbit(parts[2]) * 1e6 / 8,
            mbit(parts[3]) * 1e6 / 8,
            number(0, 50)(parts[4] or "0") / 100,
        )
    except argparse.ArgumentTypeError as error:
        raise argparse.ArgumentTypeError(f"{text}: {error}; {_LINK_ADVICE}") from None


def minutes(text: str) -> int:
    """Return the minutes of a duration such as ``4h``, ``90m``, or ``90``.

    Raises:
        argparse.ArgumentTypeError: it is none, or not from a minute to 30 days.
    """
    match = re.fullmatch(r"(\d{1,5})(h|m|min)?", text.strip().lower())
    count = 0 if match is None else int(match[1]) * (60 if match[2] == "h" else 1)
    if not 0 < count <= 30 * 24 * 60:
        raise argparse.ArgumentTypeError(f"{text!r} is not a time such as 4h or 90m")
    return count


def short_text(longest: int) -> Callable[[str], str]:
    """Return a reader of texts of one to `longest` characters."""

    def read(text: str) -> str:
        if not 0 < len(text) <= longest:
            raise argparse.ArgumentTypeError(f"it has {len(text)} characters: use 1 to {longest}")
        return text

    return read


def existing_file(text: str) -> Path:
    """Return the path of a file that is there and can be read.

    Raises:
        argparse.ArgumentTypeError: it is not.
    """
    path = Path(text)
    try:
        with path.open("rb"):
            return path
    except OSError as error:
        raise argparse.ArgumentTypeError(f"{path} cannot be read: {error.strerror}") from None


def output_file(suffixes: Collection[str] = (), *, makes_folder: bool = False) -> Callable[[str], Path]:
    """Return a reader of paths at which a file can be written.

    Args:
        suffixes: the endings that its name may have; none for any.
        makes_folder: whether the command makes the folder if it is missing.
    """

    def read(text: str) -> Path:
        path = Path(text)
        if suffixes and path.suffix.lower() not in suffixes:
            raise argparse.ArgumentTypeError(f"{path}: the name must end in {', '.join(suffixes)}")
        if makes_folder:
            output_folder(str(path.parent))
        if not makes_folder or path.exists():
            _require_writable(path)
        return path

    return read


def output_folder(text: str) -> Path:
    """Return the path of a folder in which files can be written; it may still have to be made.

    Raises:
        argparse.ArgumentTypeError: they cannot.
    """
    path = Path(text)
    nearest = next(folder for folder in (path, *path.absolute().parents) if folder.exists())
    _require_room(nearest)
    return path


def _require_writable(path: Path) -> None:
    if path.is_dir():
        raise argparse.ArgumentTypeError(f"{path} is a folder: add a file's name")
    if not path.exists():
        _require_room(path.parent)
        return
    try:
        with path.open("r+b"):
            pass
    except OSError as error:
        raise argparse.ArgumentTypeError(f"{path} cannot be written: {error.strerror}") from None


def _require_room(folder: Path) -> None:
    """Make a file in `folder` and remove it: permission bits do not tell of read-only disks."""
    if not folder.is_dir():
        raise argparse.ArgumentTypeError(f"there is no folder {folder}: make it first")
    try:
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise argparse.ArgumentTypeError(f"nothing can be written in {folder}: {error.strerror}") from None
