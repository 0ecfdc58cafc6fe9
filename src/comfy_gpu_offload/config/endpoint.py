"""The worker that the settings name: one with an address of its own, or a RunPod endpoint."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from pydantic import SecretStr

from ..errors import ConfigError
from .address import HTTPS, Address
from .pairing import Pairing
from .settings import PREFIX, Settings, env_file_to_write

# Hosts of RunPod's serverless endpoints and of its pods: docs.runpod.io, "Serverless" and "Expose ports".
_SERVERLESS_HOST = "api.runpod.ai"
_POD_HOSTS = ".proxy.runpod.net"
_KEY_PAGE = "https://console.runpod.io/user/settings"
_ENDPOINT_PAGE = "https://console.runpod.io/serverless"


@dataclass(frozen=True)
class Direct:
    """A worker under an address of its own: this machine, the next room, a pod.

    Attributes:
        fingerprint: the SHA-256 of the one certificate that it may have; None to trust authorities, as browsers do.
    """

    address: Address
    token: SecretStr | None
    fingerprint: bytes | None = None

    @property
    def is_pod(self) -> bool:
        """True behind RunPod's proxy, which ends each request after 100 s."""
        return self.address.host.endswith(_POD_HOSTS)


@dataclass(frozen=True)
class Serverless:
    """A RunPod endpoint.

    Attributes:
        kind: `auto` if it is still to be detected.
        address: where a load-balancing one listens.
        api: RunPod's own API.
    """

    kind: Literal["auto", "queue", "load-balancer"]
    endpoint_id: str
    key: SecretStr
    address: Address
    api: Address


def configured(settings: Settings) -> Direct | Serverless:
    """Return the worker that the settings name. An address wins over an endpoint's id.

    Raises:
        ConfigError: none is named, or something needed for it is missing; says what and where to get it.
    """
    url = settings.url
    if isinstance(url, Pairing):
        return _paired(url, settings)
    host = "" if url is None else url.host
    if host == _SERVERLESS_HOST:
        raise ConfigError(
            f"{PREFIX}URL is RunPod's API, not a worker: put the endpoint's id into RUNPOD_ENDPOINT_ID instead."
        )
    on_serverless = host.endswith("." + _SERVERLESS_HOST)
    if settings.endpoint == "direct" or (settings.endpoint == "auto" and url and not on_serverless):
        if url is None:
            raise _nothing(settings)
        return Direct(url, settings.token)
    if url and settings.endpoint == "queue":
        raise ConfigError(f"A queue endpoint has no address: leave {PREFIX}URL empty and set RUNPOD_ENDPOINT_ID.")
    endpoint_id = settings.runpod_endpoint_id or (host.split(".", 1)[0] if on_serverless else None)
    if endpoint_id is None:
        raise _nothing(settings)
    return Serverless(
        kind="load-balancer" if on_serverless or url else settings.endpoint,
        endpoint_id=endpoint_id,
        key=_key(settings),
        address=url or Address(HTTPS, f"{endpoint_id}.{_SERVERLESS_HOST}"),
        api=settings.runpod_base_url,
    )


def _paired(line: Pairing, settings: Settings) -> Direct:
    """Return the worker of a pairing line. Its token is for that worker, and wins over the one of the settings."""
    if settings.endpoint not in {"auto", "direct"}:
        raise ConfigError(
            f"{PREFIX}URL is the pairing line of a worker of your own, and {PREFIX}ENDPOINT={settings.endpoint} is "
            f"for RunPod's: leave {PREFIX}ENDPOINT out, or empty {PREFIX}URL."
        )
    return Direct(line.address, line.token, line.fingerprint)


def _key(settings: Settings) -> SecretStr:
    if settings.runpod_api_key is None:
        raise ConfigError(
            "RUNPOD_API_KEY is missing: a RunPod endpoint takes nothing without one. Make a key that may use "
            f"this endpoint at {_KEY_PAGE} (it begins with rpa_) and put it into the environment or the pack's "
            ".env, never into a workflow."
        )
    return settings.runpod_api_key


def _nothing(settings: Settings) -> ConfigError:
    has_key_alone = settings.endpoint == "auto" and settings.runpod_api_key is not None
    if settings.endpoint in {"queue", "load-balancer"} or has_key_alone:
        return ConfigError(
            f"RUNPOD_ENDPOINT_ID is missing: the short word in the endpoint's address, shown at {_ENDPOINT_PAGE}."
            + (" Without an endpoint, `comfy-gpu-offload up` rents a GPU with your key." if has_key_alone else "")
        )
    return ConfigError(
        f"No worker is configured. In {env_file_to_write()} (see .env.example) or in the environment, set either\n"
        f"  {PREFIX}URL, the line that `worker --share` prints on the machine with the GPU, or the address of a\n"
        "  worker on this machine, http://127.0.0.1:8288, or\n"
        "  RUNPOD_ENDPOINT_ID and RUNPOD_API_KEY, for a RunPod serverless endpoint.\n"
        "With RUNPOD_API_KEY alone, `comfy-gpu-offload up` rents a GPU and sets what is needed."
    )
