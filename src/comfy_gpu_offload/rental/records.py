"""The record of what was rented: a private file for each, written before it is asked for."""

from __future__ import annotations

import logging
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Literal

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, SecretStr, ValidationError, field_serializer

from ..config.private_files import private_folder, replace_private, require_private
from ..errors import ConfigError
from .names import PREFIX

logger = logging.getLogger(__name__)

Kind = Literal["pod", "endpoint", "volume"]
_SUFFIX = ".json"


class Rental(BaseModel):
    """Something that was rented, or that was about to be.

    Attributes:
        name: at RunPod; unique.
        id: RunPod's; None from before it was asked for until RunPod answered.
        made: when it was asked for.
        machine: the GPU, and the cloud, in words.
        dollars_an_hour: its price when it was rented; for an endpoint, of one worker that runs.
        token: the worker's.
        url: where it listens; None until a call of it has worked.
        env_file: the `.env` into which its address was written.
        replaced: what stood there, by setting; None where nothing did.
    """

    model_config = ConfigDict(frozen=True)

    name: Annotated[str, Field(pattern=rf"^{PREFIX}[0-9a-f]{{8}}$")]
    kind: Kind
    id: Annotated[str | None, Field(pattern=r"^[A-Za-z0-9_-]{1,64}$")] = None
    made: AwareDatetime = Field(default_factory=lambda: datetime.now(UTC).replace(microsecond=0))
    machine: Annotated[str, Field(max_length=200)] = ""
    dollars_an_hour: Annotated[float, Field(ge=0)] = 0.0
    token: SecretStr | None = None
    url: Annotated[str | None, Field(max_length=300)] = None
    env_file: Path | None = None
    replaced: dict[str, SecretStr | None] = Field(default_factory=dict)

    @field_serializer("token", "replaced", when_used="json")
    def _reveal(self, value: object) -> object:
        """Write secrets into the private file, which is what it is for."""
        if isinstance(value, dict):
            return {name: self._reveal(each) for name, each in value.items()}
        return value.get_secret_value() if isinstance(value, SecretStr) else value


class Records:
    """The records in a private folder. Each is written and removed in a single step, so nobody waits for a lock."""

    def __init__(self, folder: Path | None) -> None:
        """`folder`: None for this user's own.

        Raises:
            ConfigError: it cannot be made, or others may look into it.
        """
        self._folder = private_folder(folder, "rental")

    def save(self, rental: Rental) -> None:
        """Write a record, in place of an earlier one of that name.

        Raises:
            ConfigError: it cannot be written.
        """
        try:
            replace_private(self._file(rental.name), rental.model_dump_json().encode())
        except OSError as error:
            raise ConfigError(
                f"What is rented cannot be remembered in {self._folder} ({error.strerror}): make room there, or "
                "set COMFY_GPU_OFFLOAD_RENTAL_FOLDER to another folder."
            ) from error

    def all(self) -> tuple[Rental, ...]:
        """Return the records, the oldest first. One that cannot be read is passed over with a warning."""
        found = [self._read(file) for file in self._folder.glob(f"{PREFIX}*{_SUFFIX}")]
        return tuple(sorted((each for each in found if each is not None), key=lambda each: each.made))

    def has(self, name: str) -> bool:
        """Return whether there is a record of that name."""
        return self._file(name).exists()

    def forget(self, name: str) -> None:
        """Remove a record, if there is one. One that stays only makes `status` say that it is over."""
        with suppress(OSError):
            self._file(name).unlink()

    def _file(self, name: str) -> Path:
        return self._folder / f"{name}{_SUFFIX}"

    def _read(self, file: Path) -> Rental | None:
        try:
            require_private(file, "rental")
            return Rental.model_validate_json(file.read_bytes())
        except FileNotFoundError:  # given back meanwhile, by another process
            return None
        except (OSError, ValidationError, ConfigError) as error:
            # Without the error's text, which may show what is in the file. The rental is found by its name.
            logger.warning("%s cannot be read as a record of a rental (%s)", file, type(error).__name__)
            return None
