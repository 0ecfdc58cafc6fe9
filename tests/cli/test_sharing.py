"""A worker that is shared by one line: two fresh installations, each with a home of its own."""

from __future__ import annotations

import ipaddress
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.support.process import WorkerProcess, environment, worker_process

from comfy_gpu_offload import connect
from comfy_gpu_offload.cli import sharing
from comfy_gpu_offload.cli.main import main
from comfy_gpu_offload.config.address import Address
from comfy_gpu_offload.config.pairing import Pairing
from comfy_gpu_offload.config.settings import Settings, variable
from comfy_gpu_offload.errors import TlsError, UnauthorizedError
from comfy_gpu_offload.server.pairing.own_addresses import own_addresses
from comfy_gpu_offload.server.pairing.share import open_share

ROOT = Path(__file__).parents[2]
SHARED = ("--backend", "diffusers", "--cpu", "--port", "0", "--share")
NO_PROXIES = dict.fromkeys(("HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy"), "")
# What a user's script does, on a machine that has nothing but the package and the line.
CLIENT = """
import os, sys, torch, comfy_gpu_offload
from comfy_gpu_offload.digits import sampling
from comfy_gpu_offload.digits.model import load
assert comfy_gpu_offload.__file__.startswith(sys.argv[1]), comfy_gpu_offload.__file__
with comfy_gpu_offload.connect(os.environ["LINE"]) as session:
    remote = session.model("digits")
    there = sampling.sample(remote, [3, 1], steps=2, dtype=remote.dtype)
here = sampling.sample(load(remote.dtype), [3, 1], steps=2, dtype=remote.dtype)
print(torch.equal(there, here), bool(torch.isfinite(there).all()))
"""


def installed(folder: Path) -> Path:
    """Install the package into a folder, as a pack is that somebody unpacks; return where Python finds it."""
    shutil.copytree(ROOT / "src", folder / "src", ignore=shutil.ignore_patterns("__pycache__"))
    (folder / "home").mkdir()
    return folder / "src"


def fresh(folder: Path) -> dict[str, str]:
    """Return the environment of a machine's user with that home."""
    return {**NO_PROXIES, "HOME": str(folder / "home"), "LOCALAPPDATA": str(folder / "home"), "XDG_STATE_HOME": ""}


@pytest.fixture(scope="module")
def desktop(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("desktop")


@pytest.fixture(scope="module")
def worker(desktop: Path) -> Iterator[WorkerProcess]:
    source = installed(desktop)
    host = own_addresses()[0]
    try:
        ipaddress.ip_address(host)
    except ValueError:  # a machine without any network
        host = "127.0.0.1"
    extra = ("--share-as", host)
    with worker_process(*SHARED, *extra, cwd=desktop, **fresh(desktop), PYTHONPATH=str(source)) as made:
        yield made


@pytest.fixture(scope="module")
def line(worker: WorkerProcess) -> str:
    return worker.pairing_line()


@pytest.fixture
def _at_the_desktop(desktop: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Be the user of the worker's machine."""
    monkeypatch.chdir(tmp_path)
    for name in Settings.model_fields:
        monkeypatch.delenv(variable(name), raising=False)
    for name, value in fresh(desktop).items():
        monkeypatch.setenv(name, value)


def test_two_fresh_installations_and_one_pasted_line(worker: WorkerProcess, line: str, tmp_path: Path) -> None:
    source = installed(tmp_path)
    done = subprocess.run(
        [sys.executable, "-c", CLIENT, str(source)],
        capture_output=True,
        text=True,
        check=False,
        env=environment(**fresh(tmp_path), PYTHONPATH=str(source), LINE=line),
        cwd=tmp_path,
    )
    assert done.stdout.split() == ["True", "True"], done.stderr
    assert Pairing.parse(line).address == Address.parse(worker.url)
    secret = line.partition("#")[2]
    for shown in ("".join(worker.log), done.stderr):
        assert secret not in shown
        assert Pairing.parse(line).token.get_secret_value() not in shown


@pytest.mark.usefixtures("_at_the_desktop")
def test_the_doctor_checks_the_line_and_names_another_worker(
    line: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COMFY_GPU_OFFLOAD_URL", line)
    assert main(["doctor"]) == 0
    good = capsys.readouterr()
    assert "by its pairing line" in good.out
    assert "ok  certificate" in good.out
    assert "it reports that it is ready" in good.out
    pairing = Pairing.parse(line)
    monkeypatch.setenv("COMFY_GPU_OFFLOAD_URL", Pairing(pairing.address, pairing.token, bytes(32)).line())
    assert main(["doctor"]) == 1
    wrong = capsys.readouterr()
    assert "FAIL  certificate" in wrong.out
    assert "paste the new line" in wrong.err
    monkeypatch.setenv("COMFY_GPU_OFFLOAD_URL", line[:-9])
    assert main(["doctor"]) == 2
    cut = capsys.readouterr()
    assert "COMFY_GPU_OFFLOAD_URL: the pairing line was cut" in cut.err
    token = pairing.token.get_secret_value()
    assert not any(token in text for said in (good, wrong, cut) for text in said)


@pytest.mark.usefixtures("_at_the_desktop")
def test_a_pairing_is_added_to_a_running_worker_and_revoked(
    worker: WorkerProcess, line: str, capsys: pytest.CaptureFixture[str]
) -> None:
    place = Pairing.parse(line).address.authority
    assert main(["pairings", "--add", "Laptop", "--share-as", place]) == 0
    (laptops,) = (each for each in capsys.readouterr().out.splitlines() if each.startswith("comfy-gpu-offload://"))
    assert Pairing.parse(laptops).address == Address.parse(worker.url)
    assert laptops != line
    with connect(line) as first, connect(laptops) as second:
        assert first.probe() > 0
        assert second.probe() > 0
        assert main(["pairings"]) == 0
        listed = capsys.readouterr().out
        assert [row.split()[0] for row in listed.splitlines()] == ["default", "laptop", "2"]
        assert main(["pairings", "--revoke", "laptop"]) == 0
        with pytest.raises(UnauthorizedError, match="was revoked"):
            second.probe()
        assert first.probe() > 0
    with pytest.raises(UnauthorizedError):
        connect(laptops)
    capsys.readouterr()
    assert main(["pairings", "--revoke", "laptop"]) == 2
    assert "there is: default" in capsys.readouterr().err


@pytest.mark.usefixtures("_at_the_desktop")
def test_started_again_it_has_the_same_line(line: str, capsys: pytest.CaptureFixture[str]) -> None:
    pairing = Pairing.parse(line)
    sharing.announce(open_share(None), (pairing.address,))
    assert line in capsys.readouterr().out.splitlines()


@pytest.mark.usefixtures("_at_the_desktop")
def test_the_line_alone_says_who_may_connect(worker: WorkerProcess, line: str) -> None:
    """Neither authorities nor a token by itself lead to it."""
    pairing = Pairing.parse(line)
    with pytest.raises(TlsError):
        connect(worker.url, pairing.token)


def test_further_addresses_are_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    addresses = [Address("https", host, 8288) for host in ("192.168.1.7", "fd00::7", "gpu-box")]
    sharing.announce(open_share(tmp_path / "pairing", "laptop"), addresses)
    rows = capsys.readouterr().out.splitlines()
    assert rows[0] == "listening on https://192.168.1.7:8288"
    assert any(row.startswith("comfy-gpu-offload://192.168.1.7:8288/#") for row in rows)
    assert "another address of this machine there: [fd00::7], gpu-box" in "\n".join(rows)
    assert "pairings --revoke laptop" in "\n".join(rows)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("--share", "a/b"), "cannot be a pairing's name"),
        (("--share-as", "gpu-box"), "add --share"),
        (("--share", "--share-as", "gpu-box/x"), "nothing behind it"),
        (("--share", "--share-as", "gpu-box:0"), "1 to 65535"),
        (("--share", "--tls-cert", __file__, "--tls-key", __file__), "leave out --tls-cert"),
    ],
)
@pytest.mark.usefixtures("_at_the_desktop")
def test_options_that_do_not_fit_are_refused(
    arguments: tuple[str, ...], says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    try:
        status = main(["worker", "--backend", "diffusers", *arguments])
    except SystemExit as ended:
        status = ended.code  # type: ignore[assignment]
    assert status == 2
    assert says in capsys.readouterr().err


@pytest.mark.usefixtures("_at_the_desktop")
def test_a_machine_without_the_library_for_certificates_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COMFY_GPU_OFFLOAD_PAIRING_FOLDER", str(tmp_path / "new"))
    monkeypatch.setitem(sys.modules, "cryptography", None)
    assert main(["worker", "--backend", "diffusers", "--share"]) == 2
    said = capsys.readouterr().err
    assert "needs cryptography" in said
    assert f"{sys.executable} -m pip install" in said
    assert os.listdir(tmp_path / "new") == []
