"""Installed reverse proxies in front of a worker: nginx, HAProxy and Caddy. Benchmarks use them too."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
from contextlib import suppress
from pathlib import Path
from time import sleep
from types import TracebackType
from typing import ClassVar

_NGINX = """
daemon off;
worker_shutdown_timeout 100ms;
{user}
pid {folder}/nginx.pid;
error_log {folder}/error.log;
events {{}}
http {{
  access_log {folder}/access.log;
  client_max_body_size 0;
  client_body_temp_path {folder}/body;
  proxy_temp_path {folder}/proxy;
  fastcgi_temp_path {folder}/fastcgi;
  uwsgi_temp_path {folder}/uwsgi;
  scgi_temp_path {folder}/scgi;
  map $http_upgrade $upgrade_or_nothing {{ default upgrade; "" ""; }}
  server {{
    listen 127.0.0.1:{port};
    location / {{
      proxy_pass http://127.0.0.1:{target};
      proxy_http_version 1.1;
      proxy_set_header Host $http_host;
      proxy_set_header X-Forwarded-For $remote_addr;
      proxy_read_timeout {read_timeout_s}s;
      {upgrade}
    }}
  }}
}}
"""
_NGINX_UPGRADE = """proxy_set_header Upgrade $http_upgrade;
      proxy_set_header Connection $upgrade_or_nothing;"""
_HAPROXY = """
global
  hard-stop-after 100ms
defaults
  mode http
  timeout connect 5s
  timeout client {read_timeout_s}s
  timeout server {read_timeout_s}s
frontend front
  bind 127.0.0.1:{port}
  default_backend worker
backend worker
  server worker 127.0.0.1:{target}
"""
_CADDY = """
{{
  admin unix/{folder}/caddy.sock
  grace_period 1s
}}
http://127.0.0.1:{port}, http://localhost:{port} {{
  reverse_proxy 127.0.0.1:{target}
}}
"""


class ReverseProxy:
    """A reverse proxy's process, within a `with` block.

    Attributes:
        name: of the program.
        port, url: where it listens; the same after `restart`.
    """

    name: ClassVar[str]
    _template: ClassVar[str]
    _arguments: ClassVar[tuple[str, ...]]
    _reload_signal: ClassVar[signal.Signals]

    def __init__(self, target: int, folder: Path, read_timeout_s: int = 60) -> None:
        """Lead to the port `target` of this machine; `folder` is for the configuration and logs."""
        with socket.create_server(("127.0.0.1", 0)) as taken:
            self.port = taken.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        self._folder = folder
        self._configuration = folder / f"{self.name}.conf"
        self._configuration.write_text(
            self._template.format(
                folder=folder, port=self.port, target=target, read_timeout_s=read_timeout_s, **self._further()
            )
        )
        self._process: subprocess.Popen[bytes] | None = None

    @classmethod
    def installed(cls) -> str | None:
        """Return the program's path, None where it is not installed."""
        return shutil.which(cls.name) or shutil.which(cls.name, path="/usr/sbin:/usr/local/sbin")

    def _further(self) -> dict[str, str]:
        """Return the further values of the template."""
        return {}

    def _command(self, *arguments: str) -> list[str]:
        program = self.installed()
        assert program is not None, f"{self.name} is not installed"
        values = {"configuration": self._configuration, "folder": self._folder}
        return [program, *(argument.format(**values) for argument in (arguments or self._arguments))]

    def start(self) -> None:
        """Start the process and wait until it listens."""
        home = {name: str(self._folder) for name in ("HOME", "XDG_DATA_HOME", "XDG_CONFIG_HOME")}
        with (self._folder / f"{self.name}.log").open("ab") as log:
            self._process = subprocess.Popen(self._command(), stdout=log, stderr=log, env={**os.environ, **home})
        for _ in range(300):
            assert self._process.poll() is None, f"{self.name} did not start: see {log.name}"
            with suppress(OSError), socket.create_connection(("127.0.0.1", self.port), timeout=1):
                return
            sleep(0.1)
        raise AssertionError(f"{self.name} does not listen")

    def reload(self) -> None:
        """Have it read its configuration anew; it closes what is open on the old one soon."""
        assert self._process is not None
        self._process.send_signal(self._reload_signal)

    def stop(self) -> None:
        """End the process and every connection through it."""
        if self._process is not None:
            self._process.terminate()
            self._process.wait(30)

    def restart(self) -> None:
        """Stop it and start it again at the same port."""
        self.stop()
        self.start()

    def __enter__(self) -> ReverseProxy:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()


class Nginx(ReverseProxy):
    """nginx. It drops interim responses, and upgrades unless it is told to pass them."""

    name = "nginx"
    _template = _NGINX
    _arguments = ("-c", "{configuration}", "-p", "{folder}")
    _reload_signal = signal.SIGHUP

    def __init__(self, target: int, folder: Path, read_timeout_s: int = 60, *, upgrades: bool = False) -> None:
        """`upgrades`: whether WebSockets pass."""
        self._upgrades = upgrades
        super().__init__(target, folder, read_timeout_s)

    def _further(self) -> dict[str, str]:
        # As root its processes would else be another user's and could not write into the folder.
        user = "user root;" if os.geteuid() == 0 else ""
        return {"user": user, "upgrade": _NGINX_UPGRADE if self._upgrades else ""}

    def __enter__(self) -> Nginx:
        self.start()
        return self

    def requests(self, path: str) -> int:
        """Return how many requests for `path` have ended."""
        with suppress(FileNotFoundError):
            return (self._folder / "access.log").read_text().count(f" {path} ")
        return 0


class Haproxy(ReverseProxy):
    """HAProxy, as a master process with workers, which can be reloaded."""

    name = "haproxy"
    _template = _HAPROXY
    _arguments = ("-W", "-db", "-f", "{configuration}")
    _reload_signal = signal.SIGUSR2

    def start(self) -> None:
        loaded = self._times_loaded()
        super().start()
        self._wait_until_loaded(loaded + 1)

    def reload(self) -> None:
        loaded = self._times_loaded()
        super().reload()
        self._wait_until_loaded(loaded + 1)

    def _times_loaded(self) -> int:
        log = self._folder / f"{self.name}.log"
        return log.read_text().count("Loading success") if log.exists() else 0

    def _wait_until_loaded(self, times: int) -> None:
        """Wait until the master has read its configuration so often: before that, a signal to reload is lost."""
        for _ in range(600):
            if self._times_loaded() >= times:
                return
            sleep(0.1)
        raise AssertionError(f"{self.name} did not load its configuration: see {self._folder}")


class Caddy(ReverseProxy):
    """Caddy. When it is reloaded or ends, it sends both sides a close frame, the worker an unmasked one."""

    name = "caddy"
    _template = _CADDY
    _arguments = ("run", "--adapter", "caddyfile", "--config", "{configuration}")

    def reload(self) -> None:
        command = self._command("reload", "--force", "--adapter", "caddyfile", "--config", "{configuration}")
        subprocess.run(command, check=True, capture_output=True, timeout=30)
