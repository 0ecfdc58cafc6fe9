"""The search for a Chromium on this machine."""

from __future__ import annotations

import shutil
from collections.abc import Mapping

NONE_FOUND = "no browser was found: no $CHROMIUM, and no chromium, chromium-browser or google-chrome on the PATH"
_NAMES = ("chromium", "chromium-browser", "google-chrome")


class BrokenBrowserError(Exception):
    """A browser was named that cannot be started. Never a reason to skip."""


def find_browser(environ: Mapping[str, str]) -> str | None:
    """Return the path of $CHROMIUM, else of the first browser found on the PATH, else None.

    Raises:
        BrokenBrowserError: $CHROMIUM names no program.
    """
    path = environ.get("PATH")
    if named := environ.get("CHROMIUM"):
        found = shutil.which(named, path=path)
        if found is None:
            raise BrokenBrowserError(f"$CHROMIUM is {named!r}, which is no program on this machine")
        return found
    return next(filter(None, (shutil.which(name, path=path) for name in _NAMES)), None)


def report(environ: Mapping[str, str]) -> str:
    """Return a line that says which browser the tests run in."""
    return f"Chromium: {find_browser(environ) or NONE_FOUND}"
