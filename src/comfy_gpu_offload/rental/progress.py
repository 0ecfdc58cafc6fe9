"""The interface by which the user is told what happens while something is rented."""

from __future__ import annotations

from typing import Protocol


class Progress(Protocol):
    """Takes the stages of renting. None of its methods raises when the output is gone: the work must go on."""

    def stage(self, text: str) -> None:
        """Begin a stage, which lasts until the next one."""

    def detail(self, text: str) -> None:
        """Show what happens within the stage, in place of the detail before."""

    def note(self, text: str) -> None:
        """Say something that stays to be read."""
