from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from pydantic import SecretStr, ValidationError
from tests.support.platforms import needs_posix

from comfy_gpu_offload.rental import client_settings
from comfy_gpu_offload.rental.names import new_name
from comfy_gpu_offload.rental.records import Records, Rental

TOKEN = SecretStr("a-token-that-nobody-may-see")


def test_a_record_is_read_as_it_was_written_and_shows_no_secret(tmp_path: Path) -> None:
    records = Records(tmp_path / "rentals")
    before = {"COMFY_GPU_OFFLOAD_URL": SecretStr("comfy-gpu-offload://secret"), "COMFY_GPU_OFFLOAD_TOKEN": None}
    rental = Rental(name=new_name(), kind="pod", id="abc", token=TOKEN, env_file=tmp_path / ".env", replaced=before)
    records.save(rental)
    assert records.all() == (rental,)
    assert "secret" not in f"{rental} {rental!r}"
    assert TOKEN.get_secret_value() not in repr(rental)
    records.forget(rental.name)
    records.forget(rental.name)
    assert records.all() == ()


@needs_posix
def test_files_are_this_users_alone_and_others_files_are_passed_over(tmp_path: Path) -> None:
    folder = tmp_path / "rentals"
    records = Records(folder)
    now = datetime.now(UTC)
    old, new = (
        Rental(name=new_name(), kind="pod", made=now - timedelta(hours=hours), token=TOKEN) for hours in (2, 1)
    )
    for each in (new, old):
        records.save(each)
    assert {file.stat().st_mode & 0o777 for file in folder.iterdir()} == {0o600}
    assert records.all() == (old, new)
    (folder / f"{new_name()}.json").write_text('{"name": "half')
    (folder / f"{old.name}.json").chmod(0o644)
    assert records.all() == (new,)


@pytest.mark.parametrize("fields", [{"name": "else"}, {"id": "../x"}, {"kind": "cluster"}])
def test_a_record_is_checked(fields: dict[str, str]) -> None:
    with pytest.raises(ValidationError):
        Rental.model_validate({"name": new_name(), "kind": "pod", **fields})


def test_a_second_rental_puts_back_what_stood_before_the_first(tmp_path: Path) -> None:
    file = tmp_path / ".env"
    file.write_text("COMFY_GPU_OFFLOAD_URL=https://mine\n")
    rentals: list[Rental] = []
    for number in (1, 2):
        values = client_settings.for_pod(f"https://pod{number}", TOKEN, 0.36)
        standing = client_settings.standing(file, values, rentals)
        rental = Rental(
            name=new_name(), kind="pod", url=f"https://pod{number}", token=TOKEN, env_file=file, replaced=standing
        )
        rentals.append(rental)
        client_settings.write(file, values)
    assert "COMFY_GPU_OFFLOAD_GPU_RATE=0.0001000" in file.read_text()
    assert not client_settings.put_back(rentals[0])  # it is the second one's now
    assert "https://pod2" in file.read_text()
    assert client_settings.put_back(rentals[1])
    assert file.read_text() == "COMFY_GPU_OFFLOAD_URL=https://mine\n"
