from __future__ import annotations

import logging
from pathlib import Path

import pytest
from pydantic import SecretStr
from worker.settings import WorkerSettings
from worker.settings import variable as worker_variable

from comfy_gpu_offload.config import findings
from comfy_gpu_offload.config.address import Address
from comfy_gpu_offload.config.findings import WORKER_VARIABLES, checked_settings, found, told_with_errors
from comfy_gpu_offload.config.pairing import Pairing
from comfy_gpu_offload.config.settings import PREFIX, Settings, variable
from comfy_gpu_offload.errors import ConfigError, ConnectError, OffloadError, TlsError

URL = "COMFY_GPU_OFFLOAD_URL=http://127.0.0.1:9\n"
SECRET = "very-secret-0123456789"
LINE = Pairing(Address("https", "gpu-box", 8288), SecretStr("t" * 32), bytes(32)).line()


@pytest.fixture(autouse=True)
def _nothing_is_set(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in (*map(variable, Settings.model_fields), "COMFY_GPU_OFFLOAD_ENTERED"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(findings, "_logged", set())


def texts() -> str:
    return "\n".join(finding.text for finding in found())


def test_nothing_is_found_where_nothing_is_set_or_all_is_well(tmp_path: Path) -> None:
    assert found() == ()
    (tmp_path / ".env").write_text(f"# a comment\n\n{URL}export COMFY_GPU_OFFLOAD_TOKEN='{SECRET}'\nOTHER=2\n")
    assert found() == ()


def test_a_token_besides_a_pairing_line_is_told(tmp_path: Path) -> None:
    (tmp_path / ".env").write_text(f"COMFY_GPU_OFFLOAD_URL={LINE}\n")
    assert found() == ()
    (tmp_path / ".env").write_text(f"COMFY_GPU_OFFLOAD_URL={LINE}\nCOMFY_GPU_OFFLOAD_TOKEN={SECRET}\n")
    assert "wins over COMFY_GPU_OFFLOAD_TOKEN" in texts()
    assert SECRET not in texts()
    assert LINE.rpartition("#")[2] not in texts()


def test_a_pairing_line_that_was_cut_is_an_error_that_does_not_show_it(tmp_path: Path) -> None:
    (tmp_path / ".env").write_text(f"COMFY_GPU_OFFLOAD_URL={LINE[:-3]}\n")
    assert [finding.is_error for finding in found()] == [True]
    assert "COMFY_GPU_OFFLOAD_URL: the pairing line was cut" in texts()
    assert LINE.rpartition("#1")[2][:8] not in texts()


@pytest.mark.parametrize(
    ("line", "says"),
    [
        (
            f"COMFY_GPU_OFFLOAD_TOKENS={SECRET}",
            "TOKENS is not a setting and has no effect; did you mean COMFY_GPU_OFFLOAD_TOKEN?",
        ),
        (f"COMFY_GPU_OFLOAD_TOKEN={SECRET}", "did you mean COMFY_GPU_OFFLOAD_TOKEN?"),
        (f"RUNPOD_APIKEY={SECRET}", "did you mean RUNPOD_API_KEY?"),
        (f"COMFY_GPU_OFFLOAD_XYZZY={SECRET}", "COMFY_GPU_OFFLOAD_XYZZY is not a setting and has no effect."),
        (f"COMFY_GPU_OFFLOAD_TOKEN {SECRET}", "line 2 cannot be read"),
        (f"COMFY_GPU_OFFLOAD_TOKEN: {SECRET}", "line 2 cannot be read"),
        (f"COMFY_GPU_OFFLOAD_TOKEN:{SECRET}", "line 2 has no `=`"),
        (SECRET, "line 2 has no `=`"),
        (f'COMFY_GPU_OFFLOAD_TOKEN="{SECRET}', "line 2 cannot be read"),
        (
            f"comfy-gpu-offload://gpu-box:8288/#{SECRET}",
            "is a pairing line and sets nothing: write COMFY_GPU_OFFLOAD_URL=",
        ),
        ("RUNPOD_ENDPOINT_ID=abc123", "COMFY_GPU_OFFLOAD_URL wins over RUNPOD_ENDPOINT_ID"),
    ],
)
def test_a_line_that_does_nothing_is_found_and_its_value_not_shown(tmp_path: Path, line: str, says: str) -> None:
    (tmp_path / ".env").write_text(f"{URL}{line}\n")
    assert says in texts()
    assert SECRET not in texts()
    assert not any(finding.is_error for finding in found())


@pytest.mark.parametrize("name", [".env.txt", "env.txt", "env"])
def test_a_file_of_nearly_the_right_name_is_found(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text("OTHER=1\n")
    assert found() == ()  # somebody else's
    (tmp_path / name).write_text(URL)
    assert f"{tmp_path / name} is not read: the name must be .env" in texts()


def test_a_folder_of_that_name_is_found(tmp_path: Path) -> None:
    (tmp_path / ".env").mkdir()
    assert f"{tmp_path / '.env'} is a folder" in texts()


def test_an_example_that_was_filled_in_is_found(tmp_path: Path) -> None:
    (tmp_path / ".env.example").write_text("COMFY_GPU_OFFLOAD_URL=\nCOMFY_GPU_OFFLOAD_RETRY_S=120\n")
    assert found() == ()
    (tmp_path / ".env.example").write_text(URL)
    assert "copy it to .env" in texts()


def test_what_the_environment_outvotes_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / ".env").write_text(URL)
    monkeypatch.setenv("COMFY_GPU_OFFLOAD_URL", "http://127.0.0.1:9")
    assert found() == ()
    monkeypatch.setenv("COMFY_GPU_OFFLOAD_URL", "http://127.0.0.1:10")
    assert "COMFY_GPU_OFFLOAD_URL is set in the environment too" in texts()


def test_a_misspelled_variable_of_the_environment_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COMFY_GPU_OFFLOAD_UR", SECRET)
    monkeypatch.setenv("RUNPOD_POD_ID", "a-name-of-runpods")
    assert texts() == "COMFY_GPU_OFFLOAD_UR is not a setting and has no effect; did you mean COMFY_GPU_OFFLOAD_URL?"


def test_a_containers_own_variables_are_no_mistake(monkeypatch: pytest.MonkeyPatch) -> None:
    ours = {worker_variable(name) for name in WorkerSettings.model_fields}
    assert {name for name in ours if name.startswith(PREFIX)} == WORKER_VARIABLES
    for name in WORKER_VARIABLES:
        monkeypatch.setenv(name, "1")
    assert found() == ()


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("COMFY_GPU_OFFLOAD_RETRY_S=soon", "COMFY_GPU_OFFLOAD_RETRY_S"),
        ("RUNPOD_ENDPOINT_ID=abc123", "RUNPOD_API_KEY is missing"),
    ],
)
def test_what_lets_nothing_run_is_an_error_and_comes_first(tmp_path: Path, line: str, says: str) -> None:
    (tmp_path / ".env").write_text(f"COMFY_GPU_OFFLOAD_XYZZY=1\n{line}\n")
    first, *others = found()
    assert first.is_error
    assert says in first.text
    assert [finding.is_error for finding in others] == [False]


def test_where_settings_are_loaded_it_is_logged_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / ".env").write_text(f"{URL}COMFY_GPU_OFFLOAD_XYZZY={SECRET}\n")
    with caplog.at_level(logging.WARNING):
        assert checked_settings() == checked_settings()
    assert caplog.text.count("COMFY_GPU_OFFLOAD_XYZZY is not a setting") == 1
    assert SECRET not in caplog.text


def test_an_error_that_settings_may_cause_says_what_is_found(tmp_path: Path) -> None:
    (tmp_path / ".env").write_text(f"{URL}COMFY_GPU_OFFLOAD_XYZZY=1\n")
    for error in (ConfigError("no"), ConnectError("no", unknown_host=True), TlsError("no")):
        with pytest.raises(type(error)) as caught, told_with_errors():
            raise error
        assert caught.value is error
        assert str(error).startswith("no\nFound in the settings:\n- COMFY_GPU_OFFLOAD_XYZZY is not a setting")
    with pytest.raises(OffloadError) as other, told_with_errors():
        raise OffloadError("the model raised")
    assert str(other.value) == "the model raised"
