"""The answers of a worker: a module for each kind of request that a client sends.

A module registers its function with `answers(MessageClass)`. All modules of the folder are imported here, so that
`ANSWERS` is complete.
"""

from __future__ import annotations

from importlib import import_module
from pkgutil import iter_modules

from .table import ANSWERS, Asked, answers

__all__ = ["ANSWERS", "Asked", "answers"]

for _module in iter_modules(__path__):
    import_module(f".{_module.name}", __name__)
