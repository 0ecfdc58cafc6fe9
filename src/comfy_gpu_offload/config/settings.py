"""The settings of both sides. `.env.example` lists them all; a test holds the two together."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import (
    AliasChoices,
    BeforeValidator,
    Field,
    PlainSerializer,
    SecretStr,
    ValidationError,
    field_validator,
)
from pydantic_core import ErrorDetails
from pydantic_settings import (
    BaseSettings,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
)

from ..codec_names import COMPRESSIONS, REMOVED
from ..errors import ConfigError
from .address import HTTPS, Address
from .pairing import Pairing, is_pairing_line

PREFIX = "COMFY_GPU_OFFLOAD_"
HUGGING_FACE = Address(HTTPS, "huggingface.co")
CIVITAI = Address(HTTPS, "civitai.com")
RUNPOD_API = Address(HTTPS, "api.runpod.ai", path="/v2")
RUNPOD_REST_API = Address(HTTPS, "api.runpod.io", path="/v2")
RUNPOD_POD_ADDRESS = "https://{pod}-{port}.proxy.runpod.net"
# The pack's own folder, where a user who unpacked it into custom_nodes puts .env.
_PACK_FOLDER = Path(__file__).resolve().parents[3]
_ENV_FILES = (_PACK_FOLDER / ".env", Path(".env"))

# Plain words for pydantic's errors that only a programmer understands.
_PLAINLY = {
    "float_parsing": "it is not a number; write one with a decimal point, as in 0.0003",
    "int_parsing": "it is not a whole number",
}
_ENDPOINT_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{2,63}")

Seconds = Annotated[float, Field(gt=0, le=86_400)]
Minutes = Annotated[float, Field(ge=0, le=43_200)]
Bytes = Annotated[int, Field(gt=0)]
EndpointKind = Literal["auto", "queue", "load-balancer", "direct"]


def _parsed_address(value: object) -> Address:
    return value if isinstance(value, Address) else Address.parse(str(value))


def _parsed_worker(value: object) -> Address | Pairing:
    if isinstance(value, Pairing):
        return value
    return Pairing.parse(str(value)) if is_pairing_line(str(value)) else _parsed_address(value)


def _parsed_hosts(value: object) -> tuple[Address, ...]:
    texts = value.split(",") if isinstance(value, str) else value if isinstance(value, list | tuple) else [value]
    return tuple(each if isinstance(each, Address) else _parsed_host(str(each)) for each in texts if each != "")


def _shown_hosts(hosts: tuple[Address, ...]) -> str:
    return ",".join(map(str, hosts))


def _parsed_host(text: str) -> Address:
    text = text.strip()
    address = Address.parse(text if "://" in text else f"{HTTPS}://{text}")
    if address.path:
        raise ValueError("it holds hosts, separated by commas, as in models.example.org: no paths")
    return address


if TYPE_CHECKING:
    AddressSetting = Address
    WorkerSetting = Address | Pairing
    HostsSetting = tuple[Address, ...]
else:
    # If the annotation were the dataclass itself, pydantic-settings would parse a variable's text as JSON.
    AddressSetting = Annotated[Any, BeforeValidator(_parsed_address), PlainSerializer(str)]
    WorkerSetting = Annotated[Any, BeforeValidator(_parsed_worker), PlainSerializer(str)]
    HostsSetting = Annotated[Any, BeforeValidator(_parsed_hosts), PlainSerializer(_shown_hosts)]


def _as_it_is(name: str) -> Any:
    """Return the alias of a setting that others name, RunPod or ComfyUI: without our prefix."""
    return AliasChoices(name.upper(), name)


class Settings(BaseSettings):
    """All settings, frozen: from the environment, else from `.env` here or in the pack's folder, else the defaults.

    Attributes:
        url: the worker's address; https, or http where the address is this machine's own. Or its pairing line,
            which also holds a token and the fingerprint of its certificate.
        token: the worker's token; sent as a bearer, never shown. Not used with a pairing line.
        runpod_api_key: for a RunPod serverless endpoint; sent to RunPod as a bearer, never shown.
        runpod_endpoint_id: the id of that endpoint.
        runpod_base_url: of RunPod's API for queue endpoints.
        runpod_api: of RunPod's API for pods, endpoints and prices.
        runpod_pod_address: of a port of a pod; ``{pod}`` and ``{port}`` stand for its id and the port.
        endpoint: the endpoint's kind; `auto` detects it.
        wake_timeout_s: how long to wait for an endpoint's worker to start.
        ready_timeout_s: how long a rented machine may take until a call works; then another one is rented.
        gpu_rate: price of the worker's GPU in dollars per second; for estimates alone.
        ca_file: certificates to trust besides the system's, for a worker with one of its own.
        compression: one of `codec_names.COMPRESSIONS`. `auto` uses the lossless encoding with the shortest step, by
            what the session measures.
        pictures: ``8-bit`` lets VAEs and upscale models at the worker send pictures as 8-bit values, which is what
            is saved of them; ``exact`` sends all bits.
        connect_timeout_s, call_timeout_s, load_timeout_s: for a connection, a call, the loading of a model.
        silence_s: how long a connection may stay open with nothing on it, not even a sign of life, until a call is
            made again on another.
        retry_s: how long to retry a call while the worker cannot be reached.
        capture_dir: where a run leaves the tensors of each forward call, as safetensors files that hold the user's
            data; None for nowhere.
        capture_bytes: the most that those files may take together.
        frame_bytes: largest frame accepted, either way.
        store_bytes: the most that a worker keeps in memory of recurring tensors and uploads.
        upload_folder: where the worker keeps uploads (LoRA) besides, so that they survive a restart; None for a
            folder in the user's cache.
        upload_bytes: the most that it keeps there; 0 for nothing.
        pairing_folder: where a worker that is shared keeps its key and its pairings; None for the user's own.
        rental_folder: where this side remembers what it rented; None for the user's own.
        model_bytes: the most that loaded models may take at a worker; 0 for as much as memory allows.
        idle_exit_minutes: without use after which a worker leaves; 0 for never.
        at_most_minutes: from its start after which a worker leaves whatever it does; 0 for never.
        model_downloads: whether clients may have a worker fetch model files, push some to it, and remove what they
            brought; `auto`: only at a worker that no other machine reaches.
        download_hosts: further hosts that a worker downloads models from.
        hf_endpoint, civitai_endpoint: Hugging Face and Civitai, or mirrors of them, for a worker's downloads.
        hf_token, civitai_token: a client's, for models that it has the worker download; never shown.
        comfyui_python: the interpreter that a comfyui worker's ComfyUI runs under; None to look for it.
    """

    model_config = SettingsConfigDict(
        env_prefix=PREFIX,
        env_file=_ENV_FILES,
        env_file_encoding="utf-8-sig",  # editors on Windows begin a file with a mark
        env_ignore_empty=True,
        extra="ignore",
        frozen=True,
    )

    url: WorkerSetting | None = None
    token: SecretStr | None = None
    runpod_api_key: Annotated[SecretStr | None, Field(validation_alias=_as_it_is("runpod_api_key"))] = None
    runpod_endpoint_id: Annotated[str | None, Field(validation_alias=_as_it_is("runpod_endpoint_id"))] = None
    runpod_base_url: Annotated[AddressSetting, Field(validation_alias=_as_it_is("runpod_base_url"))] = RUNPOD_API
    runpod_api: AddressSetting = RUNPOD_REST_API
    runpod_pod_address: str = RUNPOD_POD_ADDRESS
    endpoint: EndpointKind = "auto"
    wake_timeout_s: Seconds = 180.0
    ready_timeout_s: Seconds = 600.0
    gpu_rate: Annotated[float, Field(ge=0, le=1)] = 0.0
    ca_file: Path | None = None
    compression: str = "auto"
    pictures: Literal["exact", "8-bit"] = "exact"
    connect_timeout_s: Seconds = 10.0
    call_timeout_s: Seconds = 330.0
    load_timeout_s: Seconds = 900.0
    silence_s: Annotated[float, Field(ge=1, le=3600)] = 15.0
    retry_s: Seconds = 120.0
    capture_dir: Path | None = None
    capture_bytes: Bytes = 4 * 1024**3
    frame_bytes: Bytes = 2 * 1024**3
    store_bytes: Bytes = 2 * 1024**3
    upload_folder: Path | None = None
    upload_bytes: Annotated[int, Field(ge=0)] = 16 * 1024**3
    pairing_folder: Path | None = None
    rental_folder: Path | None = None
    model_bytes: Annotated[int, Field(ge=0)] = 0
    idle_exit_minutes: Minutes = 0.0
    at_most_minutes: Minutes = 0.0
    model_downloads: Literal["auto", "on", "off"] = "auto"
    download_hosts: HostsSetting = ()
    hf_endpoint: Annotated[AddressSetting, Field(validation_alias=_as_it_is("hf_endpoint"))] = HUGGING_FACE
    civitai_endpoint: AddressSetting = CIVITAI
    hf_token: Annotated[SecretStr | None, Field(validation_alias=_as_it_is("hf_token"))] = None
    civitai_token: Annotated[SecretStr | None, Field(validation_alias=_as_it_is("civitai_token"))] = None
    comfyui_python: Annotated[Path | None, Field(validation_alias=_as_it_is("comfyui_python"))] = None

    @field_validator("compression")
    @classmethod
    def _check_compression(cls, value: str) -> str:
        if value in REMOVED:
            raise ValueError(
                f"{value} was removed: set it to auto, which is lossless, or to {REMOVED[value]}, which is lossy"
            )
        if value not in COMPRESSIONS:
            raise ValueError(f"it is one of {', '.join(COMPRESSIONS)}")
        return value

    @field_validator("runpod_pod_address")
    @classmethod
    def _check_pod_address(cls, value: str) -> str:
        if "{pod}" not in value:
            raise ValueError(f"it holds {{pod}}, which stands for a pod's id, as in {RUNPOD_POD_ADDRESS}")
        Address.parse(value.replace("{pod}", "a").replace("{port}", "1"))
        return value

    @field_validator("token", "runpod_api_key", "hf_token", "civitai_token")
    @classmethod
    def _check_token(cls, value: SecretStr | None) -> SecretStr | None:
        if value is not None and not is_header_text(value.get_secret_value()):
            raise ValueError("it is printable ASCII without spaces or quotes around it")
        return value

    @field_validator("ca_file", "capture_dir", "upload_folder", "pairing_folder", "rental_folder", "comfyui_python")
    @classmethod
    def _expand(cls, value: Path | None) -> Path | None:
        return None if value is None else at_home(value)

    @field_validator("ca_file")
    @classmethod
    def _check_ca_file(cls, value: Path | None) -> Path | None:
        if value is not None and not value.is_file():
            raise ValueError(f"there is no file {value}")
        return value

    @field_validator("capture_dir", "upload_folder", "pairing_folder", "rental_folder")
    @classmethod
    def _check_folder(cls, value: Path | None) -> Path | None:
        if value is not None and value.exists() and not value.is_dir():
            raise ValueError(f"{value} is not a folder")
        return value

    @field_validator("runpod_endpoint_id")
    @classmethod
    def _check_endpoint_id(cls, value: str | None) -> str | None:
        if value is not None and not _ENDPOINT_ID.fullmatch(value):
            raise ValueError("an endpoint's id is the short word in its address, e.g. abc123def456gh")
        return value


def is_header_text(token: str) -> bool:
    """Return whether `token` can stand in an HTTP header: printable ASCII, no spaces, at least one character."""
    return bool(token) and all(33 <= ord(character) <= 126 for character in token)


def at_home(path: Path) -> Path:
    """Return `path` with `~` at its beginning replaced by the user's folder, as a shell would do.

    Raises:
        ValueError: that folder is not known.
    """
    try:
        return path.expanduser()
    except RuntimeError:
        raise ValueError("the folder that ~ stands for is not known here: write its whole path") from None


class _GivenSettings(Settings):
    """The same settings, from arguments alone."""

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        *_: PydanticBaseSettingsSource,
        **__: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        return (init_settings,)


def load_settings() -> Settings:
    """Return the settings in force, from the environment and .env.

    Raises:
        ConfigError: a value is wrong, or a `.env` is no text; names the variable and what is wrong, never a secret.
    """
    return _built(Settings, {})


def env_files() -> list[Path]:
    """Return the `.env` files that are read, the one that wins last."""
    return list(dict.fromkeys(file.resolve() for file in _ENV_FILES if file.is_file()))


def env_places() -> list[Path]:
    """Return the paths at which a `.env` is looked for, whether or not there is one."""
    return list(dict.fromkeys(file.absolute() for file in _ENV_FILES))


def env_file_to_write() -> Path:
    """Return the file for settings: the pack's `.env`, or one here if the package is installed without the pack."""
    in_pack = (_PACK_FOLDER / ".env.example").is_file()
    return _ENV_FILES[0] if in_pack else _ENV_FILES[1].resolve()


def given_settings(**values: Any) -> Settings:
    """Return settings of these values; the environment and .env are not read.

    Raises:
        ConfigError: a value is wrong, or no setting has that name.
    """
    unknown = sorted(values.keys() - Settings.model_fields.keys())
    if unknown:
        raise ConfigError(f"There is no setting {', '.join(unknown)}")
    return _built(_GivenSettings, values)


def _built(kind: type[Settings], values: dict[str, Any]) -> Settings:
    try:
        return kind(**values)
    except ValidationError as error:
        wrong = "\n".join(f"  {variable(str(e['loc'][0]))}: {_said_of(e)}" for e in error.errors())
        raise ConfigError(f"Wrong settings:\n{wrong}") from None
    except (OSError, UnicodeError) as error:
        raise ConfigError(
            f"{_unreadable_file()} cannot be read ({type(error).__name__}): save it as UTF-8 text that this user "
            "may read (the `>` of Windows' PowerShell writes UTF-16)."
        ) from None


def _said_of(error: ErrorDetails) -> str:
    return _PLAINLY.get(error["type"]) or reason(error["msg"])


def _unreadable_file() -> str:
    for file in env_files():
        try:
            file.read_text("utf-8")
        except (OSError, UnicodeError):
            return str(file)
    return "A .env"


def reason(message: str) -> str:
    """Return pydantic's message about a wrong value, without its prefix for errors of ours."""
    return message.removeprefix("Value error, ")


def variable(field: str) -> str:
    """Return the environment variable of the setting with that name."""
    name = field.upper()
    given = Settings.model_fields.get(field)
    is_ours = given is not None and given.validation_alias is None
    is_others = name.startswith(("RUNPOD_", "COMFYUI_", "HF_", PREFIX)) or name == "CIVITAI_TOKEN"
    return PREFIX + name if is_ours or not is_others else name
