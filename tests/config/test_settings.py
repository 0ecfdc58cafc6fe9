from __future__ import annotations

import re
from pathlib import Path

import pytest

from comfy_gpu_offload.codec_names import COMPRESSIONS, REMOVED
from comfy_gpu_offload.config.settings import PREFIX, Settings, given_settings, load_settings, variable
from comfy_gpu_offload.errors import ConfigError

ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in Settings.model_fields:
        monkeypatch.delenv(variable(name), raising=False)


def example() -> dict[str, str]:
    lines = (ROOT / ".env.example").read_text().splitlines()
    return dict(line.split("=", 1) for line in lines if line and not line.startswith("#"))


def test_the_example_lists_every_setting_with_its_default() -> None:
    listed = example()
    assert listed.keys() == {variable(name) for name in Settings.model_fields}
    for name, field in Settings.model_fields.items():
        default = "" if field.default in {None, ()} else field.default
        assert listed[variable(name)] == (f"{default:g}" if isinstance(default, float) else str(default)), name


def test_the_example_explains_each_line() -> None:
    text = (ROOT / ".env.example").read_text()
    for name in example():
        before = text[: text.index(f"\n{name}=")].splitlines()[-1]
        assert before.startswith("#") or f"{PREFIX}" in before, name


def test_the_environment_wins_over_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / ".env").write_text("COMFY_GPU_OFFLOAD_URL=http://127.0.0.1:1\nCOMFY_GPU_OFFLOAD_RETRY_S=7\n")
    monkeypatch.setenv("COMFY_GPU_OFFLOAD_URL", "http://127.0.0.1:2/")
    settings = load_settings()
    assert str(settings.url) == "http://127.0.0.1:2"
    assert settings.retry_s == 7


def test_a_file_of_another_encoding_is_named(tmp_path: Path) -> None:
    (tmp_path / ".env").write_text("COMFY_GPU_OFFLOAD_TOKEN=very-secret\n", "utf-16")
    with pytest.raises(ConfigError, match=re.escape(str(tmp_path / ".env"))) as caught:
        load_settings()
    assert "UTF-8" in str(caught.value)
    assert "very-secret" not in str(caught.value)


def test_a_file_with_a_mark_of_its_encoding_is_read(tmp_path: Path) -> None:
    (tmp_path / ".env").write_text("COMFY_GPU_OFFLOAD_RETRY_S=7\n", "utf-8-sig")
    assert load_settings().retry_s == 7


@pytest.mark.parametrize("name", ["ca_file", "capture_dir", "upload_folder", "comfyui_python"])
def test_a_folder_may_begin_with_the_users_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv(variable(name), "~/here")
    (tmp_path / "here").touch() if name in {"ca_file", "comfyui_python"} else (tmp_path / "here").mkdir()
    assert getattr(load_settings(), name) == tmp_path / "here"
    monkeypatch.setenv(variable(name), "~nobody-of-that-name/here")
    with pytest.raises(ConfigError, match=variable(name)):
        load_settings()


def test_the_token_is_never_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COMFY_GPU_OFFLOAD_TOKEN", "very-secret")
    settings = load_settings()
    assert "very-secret" not in f"{settings!r} {settings} {settings.model_dump()}"
    assert settings.token is not None
    assert settings.token.get_secret_value() == "very-secret"


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("URL", "http://192.168.1.7:8288"),
        ("URL", "gpu-box"),
        ("URL", "https://host:99999"),
        ("URL", "https://b\u00fccher.example"),
        ("URL", "https://gpu.example\u200b"),
        ("URL", "https://gpu.example/a path"),
        ("URL", f"https://{'a' * 64}.example"),
        ("URL", "https://gpu..example"),
        ("URL", "https://@gpu.example"),
        ("URL", "https://gpu.example?"),
        ("URL", "https://gpu.example/#"),
        ("TOKEN", "two words of a secret"),
        ("TOKEN", "line\nbreak"),
        ("RETRY_S", "-1"),
        ("RETRY_S", "soon-ish"),
        ("COMPRESSION", "gzip-9000"),
        ("COMPRESSION", "raw"),
        ("FRAME_BYTES", "0"),
        ("CA_FILE", "/nowhere/cert.pem"),
        ("CA_FILE", "/"),
        ("CAPTURE_DIR", __file__),
        ("UPLOAD_FOLDER", __file__),
    ],
)
def test_a_wrong_value_names_its_variable_and_is_not_repeated(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str
) -> None:
    monkeypatch.setenv(PREFIX + name, value)
    with pytest.raises(ConfigError, match=re.escape(PREFIX + name)) as caught:
        load_settings()
    assert "Value error" not in str(caught.value)
    if name == "TOKEN":
        assert value not in str(caught.value)


@pytest.mark.parametrize("name", COMPRESSIONS)
def test_every_listed_compression_is_a_value(name: str) -> None:
    assert given_settings(compression=name).compression == name


@pytest.mark.parametrize("name", REMOVED)
def test_a_removed_codec_is_named_with_what_to_use(name: str) -> None:
    with pytest.raises(ConfigError, match=f"COMFY_GPU_OFFLOAD_COMPRESSION: {name} was removed.* auto.* int8-block"):
        given_settings(compression=name)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("RUNPOD_API_KEY", "rpa_ with a space"),
        ("RUNPOD_ENDPOINT_ID", "https://api.runpod.ai/v2/abc123"),
        ("RUNPOD_BASE_URL", "http://api.runpod.ai/v2"),
        ("RUNPOD_BASE_URL", "ftp://x"),
        ("RUNPOD_BASE_URL", "api.runpod.ai"),
        ("RUNPOD_BASE_URL", "https://u:p@host/v2"),
        ("COMFY_GPU_OFFLOAD_RUNPOD_API", "http://api.runpod.io/v2"),
        ("COMFY_GPU_OFFLOAD_RUNPOD_API", "https://api.runpod.io/v2?key=1"),
        ("COMFY_GPU_OFFLOAD_RUNPOD_POD_ADDRESS", "https://proxy.runpod.net"),
        ("COMFY_GPU_OFFLOAD_RUNPOD_POD_ADDRESS", "http://{pod}-{port}.proxy.runpod.net"),
        ("COMFY_GPU_OFFLOAD_ENDPOINT", "cluster"),
        ("COMFY_GPU_OFFLOAD_GPU_RATE", "-1"),
    ],
)
def test_a_wrong_runpod_value_names_its_variable(monkeypatch: pytest.MonkeyPatch, name: str, value: str) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(ConfigError, match=f"  {name}: ") as caught:
        load_settings()
    assert "with a space" not in str(caught.value)


def test_a_number_with_a_comma_is_told_of_in_plain_words(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COMFY_GPU_OFFLOAD_GPU_RATE", "0,0003")
    with pytest.raises(ConfigError, match=r"GPU_RATE: it is not a number; write .* as in 0\.0003"):
        load_settings()


def test_a_key_is_never_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RUNPOD_API_KEY", "rpa_VERYSECRET")
    settings = load_settings()
    assert "VERYSECRET" not in f"{settings!r} {settings} {settings.model_dump()} {settings.model_dump_json()}"


def test_given_settings_ignore_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COMFY_GPU_OFFLOAD_RETRY_S", "7")
    assert given_settings(url="http://127.0.0.1:1").retry_s == 120
    with pytest.raises(ConfigError, match="colour"):
        given_settings(colour="red")
