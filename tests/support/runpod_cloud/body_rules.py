"""Checks of what a create asks for, with RunPod's words: 422 for a wrong body, 400 for a broken rule."""

from __future__ import annotations

from typing import Any

from aiohttp import web

_POD = {
    *(
        "name",
        "image",
        "args",
        "disk",
        "env",
        "ports",
        "registry",
        "cloud",
        "cpu",
        "dataCenterIds",
        "globalNetworking",
    ),
    *("gpu", "mounts", "startJupyter", "startSsh", "templateId"),
}
_ENDPOINT = {
    *(
        "name",
        "image",
        "args",
        "disk",
        "env",
        "ports",
        "registry",
        "gpu",
        "scaling",
        "type",
        "cpu",
        "dataCenterIds",
    ),
    *("flashboot", "networkVolumes", "templateId", "timeout", "workers"),
}
_VOLUME = {"name", "size", "dataCenter", "type"}
_KINDS: dict[str, type | tuple[type, ...]] = {
    **dict.fromkeys(("name", "image", "args", "cloud", "dataCenter", "type", "flashboot"), str),
    **dict.fromkeys(("disk", "size", "timeout"), int),
    **dict.fromkeys(("env", "gpu", "mounts", "scaling", "workers"), dict),
    **dict.fromkeys(("ports", "dataCenterIds", "networkVolumes"), list),
    "startSsh": bool,
}


def problem(status: int, detail: str, errors: list[str] | None = None, **headers: str) -> web.Response:
    """Return a refusal as RunPod writes it, with headers whose names have `_` for `-`."""
    body: dict[str, Any] = {"title": "Refused", "status": status, "detail": detail}
    if errors:
        body["errors"] = errors
    named = {name.replace("_", "-"): text for name, text in headers.items()}
    return web.json_response(body, status=status, headers=named, content_type="application/problem+json")


def wrong_pod(body: Any) -> web.Response | None:
    """Return the refusal of a pod's body, or None."""
    return _wrong(body, _POD, ("name", "image"), ("gpu",)) or _wrong_gpu(body, ("id", "count"), "id")


def wrong_endpoint(body: Any) -> web.Response | None:
    """Return the refusal of an endpoint's body, or None."""
    refusal = _wrong(body, _ENDPOINT, ("name", "type", "scaling", "image"), ("gpu",))
    if refusal is None and body["type"] == "LOAD_BALANCER" and body["scaling"].get("type") != "REQUEST_COUNT":
        return problem(422, "Request validation failed.", ["$.scaling.type: must be REQUEST_COUNT"])
    return refusal or _wrong_gpu(body, ("pools", "count", "excludedTypes"), "pools")


def wrong_volume(body: Any) -> web.Response | None:
    """Return the refusal of a volume's body, or None."""
    refusal = _wrong(body, _VOLUME, ("name", "size", "dataCenter"), ())
    if refusal is None and not 10 <= body["size"] <= 4096:
        return problem(422, "Request validation failed.", ["$.size: must be 10 to 4096"])
    return refusal


def _wrong(
    body: Any, known: set[str], required: tuple[str, ...], needed_by_rule: tuple[str, ...]
) -> web.Response | None:
    if not isinstance(body, dict):
        return problem(422, "Request validation failed.", ["$: must be an object"])
    errors = [f"$: additional properties '{name}' not allowed" for name in body if name not in known]
    errors += [f"$: missing property '{name}'" for name in required if not body.get(name)]
    errors += [
        f"$.{name}: got {type(value).__name__}"
        for name, value in body.items()
        if name in _KINDS and not isinstance(value, _KINDS[name])
    ]
    env = body.get("env")
    errors += [f"$.env.{name}: want string" for name, value in (env or {}).items() if not isinstance(value, str)]
    if errors:
        return problem(422, "Request validation failed.", errors)
    missing = [name for name in needed_by_rule if name not in body]
    return problem(400, f"exactly one of {missing[0]} or cpu must be set") if missing else None


def _wrong_gpu(body: dict[str, Any], known: tuple[str, ...], required: str) -> web.Response | None:
    allowed = {*known, "allowedCudaVersions", "minCudaVersion"}
    errors = [f"$.gpu: additional properties '{name}' not allowed" for name in body["gpu"] if name not in allowed]
    if not body["gpu"].get(required):
        errors.append(f"$.gpu: missing property '{required}'")
    return problem(422, "Request validation failed.", errors) if errors else None
