"""The reasons why a worker does not take a model file."""

from __future__ import annotations


class ModelStoreError(Exception):
    """A file that cannot be taken. The message is for the user, and holds no secret."""


class RefusedFileError(ModelStoreError):
    """The file, its name or its folder is none that a worker takes."""


class DiskFullError(ModelStoreError):
    """There is too little room on the worker's disk."""


class FileInUseError(ModelStoreError):
    """The same file is being received already, by this worker or by another one that shares the folder."""
