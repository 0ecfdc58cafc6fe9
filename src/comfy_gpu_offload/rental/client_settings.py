"""The settings by which this side's client reaches what was rented, in the `.env` that it reads."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path

from pydantic import SecretStr

from ..config.env_file import read_settings, write_settings
from ..config.settings import env_file_to_write, env_files, variable
from ..errors import ConfigError
from .records import Rental

_URL, _TOKEN, _ENDPOINT_ID = variable("url"), variable("token"), variable("runpod_endpoint_id")
_KIND, _RATE = variable("endpoint"), variable("gpu_rate")
# By which a rental's own lines are known again.
_MARKS = (_URL, _ENDPOINT_ID)


def env_file_for_client() -> Path:
    """Return the `.env` in which the worker's address belongs: the one that sets it at present, if any.

    Raises:
        ConfigError: it cannot be written, or is no text.
    """
    setting = [file for file in env_files() if any(value for value in _read(file, _MARKS).values())]
    file = setting[-1] if setting else env_file_to_write()
    try:
        with tempfile.TemporaryFile(dir=file.resolve().parent):
            pass
    except OSError as error:
        raise _unwritable(file, error) from error
    _read(file, _MARKS)
    return file


def outvoted() -> tuple[str, ...]:
    """Return the settings for the worker that are in the environment, which counts more than any file."""
    return tuple(name for name in (_URL, _TOKEN, _ENDPOINT_ID, _KIND) if os.environ.get(name))


def for_pod(url: str, token: SecretStr, dollars_an_hour: float) -> dict[str, str | None]:
    """Return the settings for a worker with an address of its own."""
    return {
        _URL: url,
        _TOKEN: token.get_secret_value(),
        _ENDPOINT_ID: None,
        _KIND: None,
        _RATE: f"{dollars_an_hour / 3600:.7f}",
    }


def endpoint_url(endpoint_id: str) -> str:
    """Return RunPod's usual address of a load-balancing endpoint."""
    return f"https://{endpoint_id}.api.runpod.ai"


def for_endpoint(endpoint_id: str, url: str, dollars_an_hour: float) -> dict[str, str | None]:
    """Return the settings for a load-balancing endpoint at `url`."""
    return {
        _URL: None if url == endpoint_url(endpoint_id) else url,
        _ENDPOINT_ID: endpoint_id,
        _KIND: "load-balancer",
        _RATE: f"{dollars_an_hour / 3600:.7f}",
    }


def standing(file: Path, names: Iterable[str], others: Iterable[Rental]) -> dict[str, SecretStr | None]:
    """Return what stands in the file, to be put back when the rental ends.

    `others`: earlier rentals. If one of their addresses stands there, what it replaced is returned in its place.

    Raises:
        ConfigError: the file cannot be read.
    """
    now = _read(file, names)
    for other in others:
        if other.env_file == file and _is_its_own(file, other):
            return {name: other.replaced.get(name, _secret(now[name])) for name in now}
    return {name: _secret(value) for name, value in now.items()}


def write(file: Path, values: Mapping[str, str | None]) -> None:
    """Write settings; every other line stays.

    Raises:
        ConfigError: the file cannot be written.
    """
    try:
        write_settings(file, values)
    except (OSError, UnicodeError) as error:
        raise _unwritable(file, error) from error


def put_back(rental: Rental) -> bool:
    """Write back what stood before a rental's address; return whether that still stood there."""
    if rental.env_file is None or not rental.replaced:
        return False
    with suppress(ConfigError, OSError):
        if _is_its_own(rental.env_file, rental):
            before = {
                name: None if value is None else value.get_secret_value() for name, value in rental.replaced.items()
            }
            write(rental.env_file, before)
            if not rental.env_file.read_bytes().strip():  # it was made for these settings
                rental.env_file.unlink()
            return True
    return False


def _is_its_own(file: Path, rental: Rental) -> bool:
    now = _read(file, _MARKS)
    if rental.kind == "endpoint":
        return rental.id is not None and now[_ENDPOINT_ID] == rental.id
    return rental.url is not None and now[_URL] == rental.url


def _read(file: Path, names: Iterable[str]) -> dict[str, str | None]:
    try:
        return read_settings(file, names)
    except (OSError, UnicodeError) as error:
        raise _unwritable(file, error) from error


def _secret(value: str | None) -> SecretStr | None:
    return None if value is None else SecretStr(value)


def _unwritable(file: Path, error: Exception) -> ConfigError:
    why = getattr(error, "strerror", None) or "it is not UTF-8 text"
    return ConfigError(f"{file}, which the worker's address belongs in, cannot be used ({why}): mend it first.")
