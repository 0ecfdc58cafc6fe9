"""Findings about the settings: errors, and what has no effect or not the one that was meant.

The doctor prints them, ComfyUI's page shows them, a loader's error names them, and every log has each once.
"""

from __future__ import annotations

import difflib
import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from dotenv.parser import parse_stream
from pydantic_settings import DotEnvSettingsSource

from ..errors import ConfigError, TransportError, UnauthorizedError
from .endpoint import Direct, configured
from .pairing import Pairing, is_pairing_line
from .settings import PREFIX, Settings, env_file_to_write, env_files, env_places, load_settings, variable

logger = logging.getLogger(__name__)

# Variables that only the worker's container reads (worker/settings.py): no mistake where this side finds them.
WORKER_VARIABLES = frozenset(
    PREFIX + name
    for name in ("SERVE", "BACKEND", "COMFYUI", "MODELS", "PRELOAD", "CONCURRENCY", "JOB_OUTPUT_BYTES")
)
_ENCODING = "utf-8-sig"
# Editors append an ending that Windows then hides; a file manager may refuse a name that begins with a dot.
_MISNAMED = (".env.txt", "env.txt", "env", ".env.env")
_TARGET = ("url", "token", "runpod_api_key", "runpod_endpoint_id")
# Least similarity of a name to a setting's, without our prefix and with it.
_ALIKE, _RESEMBLING = 0.85, 0.6
_logged: set[Finding] = set()


@dataclass(frozen=True)
class Finding:
    """One finding.

    Attributes:
        text: what was found and what to do, without any value that was set.
        is_error: whether no worker can be used until it is mended.
    """

    text: str
    is_error: bool = False


def found() -> tuple[Finding, ...]:
    """Return all findings, errors first. Settings and files are read anew."""
    return (*_errors(), *_misplaced(), *_odd_lines(), *_unknown(), *_outvoted())


def checked_settings() -> Settings:
    """Return the settings in force, as `load_settings`; log each finding once in this process.

    Raises:
        ConfigError: as `load_settings`.
    """
    for finding in found():
        if finding not in _logged and not finding.is_error:  # an error is raised
            _logged.add(finding)
            logger.warning("%s", finding.text)
    return load_settings()


@contextmanager
def told_with_errors() -> Iterator[None]:
    """Add the findings to the text of an error that settings may be the cause of."""
    try:
        yield
    except (ConfigError, TransportError, UnauthorizedError) as error:
        others = [finding.text for finding in found() if not finding.is_error]
        if others:
            error.args = ("\n".join([f"{error}", "Found in the settings:", *(f"- {text}" for text in others)]),)
        raise


def _errors() -> Iterator[Finding]:
    try:
        settings = load_settings()
        if any(getattr(settings, name) for name in _TARGET):  # with none the pack is just not used yet
            configured(settings)
    except ConfigError as error:
        yield Finding(str(error), is_error=True)


def _misplaced() -> Iterator[Finding]:
    for file in env_places():
        if file.is_dir():
            yield Finding(f"{file} is a folder and is not read: put settings into a file of that name.")
        for name in _MISNAMED:
            other = file.with_name(name)
            # Another program's file of that name holds none of our settings.
            if other.is_file() and _names_in(other) & _known():
                yield Finding(f"{other} is not read: the name must be .env, without any other ending.")
        example = file.with_name(".env.example")
        if example.is_file() and _names_in(example, with_value=True) & set(map(variable, _TARGET)):
            yield Finding(f"{example} is not read, and holds settings: copy it to .env beside it.")


def _odd_lines() -> Iterator[Finding]:
    for file in env_files():
        for line, name, has_value in _lines(file):
            if name is None:
                yield Finding(f"{file}, line {line} cannot be read: write NAME=value, and close each quote.")
            elif is_pairing_line(name):
                yield Finding(
                    f"{file}, line {line} is a pairing line and sets nothing: write {PREFIX}URL= before it."
                )
            elif not has_value:
                yield Finding(f"{file}, line {line} has no `=` and sets nothing: write NAME=value.")


def _unknown() -> Iterator[Finding]:
    known = _known()
    in_files = {name for file in env_files() for name in _names_in(file)}
    in_environment = {name.upper() for name in os.environ if name.upper().startswith(("COMFY", "RUNPOD"))}
    for name in sorted((in_files | in_environment) - known - WORKER_VARIABLES):
        near = _nearest(name, known)
        if near is not None:
            yield Finding(f"{name} is not a setting and has no effect; did you mean {near}?")
        elif name.startswith(PREFIX):
            yield Finding(f"{name} is not a setting and has no effect.")


def _nearest(name: str, known: set[str]) -> str | None:
    """Return the setting that `name` may be meant for. With our prefix a weaker resemblance is enough."""
    rest = {each.removeprefix(PREFIX): each for each in known}
    if name.startswith(PREFIX):
        near = difflib.get_close_matches(name.removeprefix(PREFIX), rest, 1, _RESEMBLING)
        return rest[near[0]] if near else None
    return next(iter(difflib.get_close_matches(name, known, 1, _ALIKE)), None)


def _outvoted() -> Iterator[Finding]:
    try:
        settings = load_settings()
        target = configured(settings)
    except ConfigError:
        return
    if isinstance(target, Direct) and settings.runpod_endpoint_id is not None:
        yield Finding(f"{PREFIX}URL wins over RUNPOD_ENDPOINT_ID: empty it to use the endpoint.")
    if isinstance(settings.url, Pairing) and settings.token not in {None, settings.url.token}:
        yield Finding(
            f"{PREFIX}URL is a pairing line with a token of its own, which wins over {PREFIX}TOKEN: remove that, "
            "unless a worker on this machine uses it."
        )
    given = {name.upper(): value for name, value in os.environ.items() if value}
    for name, value in DotEnvSettingsSource(Settings).env_vars.items():
        upper = name.upper()
        if upper in _known() and value and given.get(upper, value) != value:
            yield Finding(f"{upper} is set in the environment too, which counts more than {_files_text()}.")


def _files_text() -> str:
    return " and ".join(map(str, env_files())) or str(env_file_to_write())


def _known() -> set[str]:
    return {variable(name) for name in Settings.model_fields}


def _names_in(file: Path, *, with_value: bool = False) -> set[str]:
    return {name.upper() for _, name, has_value in _lines(file, with_value=with_value) if name and has_value}


def _lines(file: Path, *, with_value: bool = False) -> list[tuple[int, str | None, bool]]:
    """Return each line's number, name (None where it is no line of a `.env`), and whether it has a value.

    `with_value`: an empty one is none.
    """
    try:
        with file.open(encoding=_ENCODING) as text:
            parsed = list(parse_stream(text))
    except (OSError, UnicodeError):
        return []  # load_settings says so, if it is read at all
    return [
        (each.original.line, each.key, bool(each.value) if with_value else each.value is not None)
        for each in parsed
        if each.error or each.key is not None
    ]
