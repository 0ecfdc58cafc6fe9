"""The installed nginx as a reverse proxy in front of a worker. It drops interim responses."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from time import sleep

import pytest

PATH = shutil.which("nginx") or shutil.which("nginx", path="/usr/sbin:/usr/local/sbin")
needs_nginx = pytest.mark.skipif(PATH is None, reason="nginx is not installed")
_CONFIG = """
daemon off;
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
  server {{
    listen 127.0.0.1:{port};
    location / {{
      proxy_pass http://127.0.0.1:{target};
      proxy_http_version 1.1;
      proxy_set_header Host $http_host;
      proxy_set_header X-Forwarded-For $remote_addr;
      proxy_read_timeout {read_timeout_s}s;
    }}
  }}
}}
"""


class Nginx:
    """`url` leads through it. `folder` holds its logs."""

    def __init__(self, port: int, folder: Path) -> None:
        self.port = port
        self.url = f"http://127.0.0.1:{port}"
        self._folder = folder

    def requests(self, path: str) -> int:
        """Return how many requests for `path` have ended."""
        with suppress(FileNotFoundError):
            return (self._folder / "access.log").read_text().count(f" {path} ")
        return 0


@contextmanager
def nginx(target: int, folder: Path, read_timeout_s: int = 60) -> Iterator[Nginx]:
    """Run nginx in front of the port `target`, until the block ends."""
    assert PATH is not None
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    config = folder / "nginx.conf"
    user = "user root;" if os.geteuid() == 0 else ""  # else its processes may not write into the folder
    values = {"folder": folder, "port": port, "target": target, "read_timeout_s": read_timeout_s, "user": user}
    config.write_text(_CONFIG.format(**values))
    process = subprocess.Popen([PATH, "-c", str(config), "-p", str(folder)], stderr=subprocess.DEVNULL)
    try:
        _wait_for(port, process)
        yield Nginx(port, folder)
    finally:
        process.terminate()
        process.wait(30)


def _wait_for(port: int, process: subprocess.Popen[bytes]) -> None:
    for _ in range(300):
        assert process.poll() is None, "nginx did not start"
        with suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
            return
        sleep(0.1)
    raise AssertionError("nginx does not listen")
