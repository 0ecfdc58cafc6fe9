"""The start script in a pod: the worker's end, and each way in which the pod is deleted, with the others broken.

The workers here are small ones that leave, crash or hang; test_start_from_nothing.py installs a real one.
"""

from __future__ import annotations

import os
import shlex
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from time import monotonic, sleep
from typing import Any

import pytest
from tests.support.pod_container import KEY, POD, TOKEN, Api, Pod, serving

from comfy_gpu_offload.rental.start_script import StartOptions, start_args, start_script

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="pods run Linux")

SHELLS = [shell for shell in ("dash", "bash") if shutil.which(shell)]
_LEAVES = "print('served', flush=True)"
_CRASHES = "import sys; print('served', flush=True); sys.exit(1)"
_WRONG = "import sys; print('served', flush=True); sys.exit(2)"
_HANGS = """
import signal, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
print('served', flush=True)
time.sleep(600)
"""
_SERVES = """
import signal, sys, time
signal.signal(signal.SIGTERM, lambda *_: (print('told to stop', flush=True), sys.exit(0)))
print('served', flush=True)
time.sleep(600)
"""
_TELLS = """
import os
for name in ("RUNPOD_API_KEY", "COMFY_GPU_OFFLOAD_TOKEN", "HF_TOKEN", "COMFY_GPU_OFFLOAD_SERVE",
             "COMFY_GPU_OFFLOAD_AT_MOST_MINUTES"):
    open(name, "w").write(os.environ.get(name, "none"))
"""


class Machine:
    """The place in which a test starts pods."""

    def __init__(self, folder: Path, stack: ExitStack) -> None:
        self.folder = folder
        self._stack = stack
        self.bin = folder / "bin"
        self.bin.mkdir()
        for name in ("python", "python3"):
            self.program(name, f'exec {sys.executable} "$@"')
        # Where this machine has one, no test may meet it.
        self.program("runpodctl", f'echo "$RUNPOD_API_KEY $*" >>{folder}/runpodctl.log; exit 1')

    def program(self, name: str, script: str) -> None:
        """Put a program of this script first on the path."""
        file = self.bin / name
        file.write_text(f"#!/bin/sh\n{script}\n")
        file.chmod(0o755)

    def runpodctl(self, words: str) -> None:
        """Have a runpodctl that knows these words alone, and deletes the pod by them."""
        self.program(
            "runpodctl",
            f'[ "$RUNPOD_API_KEY" = {KEY} ] && [ "$*" = "{words} {POD}" ] || exit 1\n'
            'kill -9 -$(ps -o sid= $$ | tr -d " ")',
        )

    def start(self, worker: str, api: Api, *, shell: str = "sh", limits: bool = True, **given: Any) -> Pod:
        """Start the script with a module `worker` of this text; `given`: StartOptions, or variables in capitals."""
        (self.folder / "worker").mkdir(exist_ok=True)
        (self.folder / "worker" / "__main__.py").write_text(worker)
        variables = {name: value for name, value in given.items() if name.isupper()}
        options = {name: value for name, value in given.items() if not name.isupper()}
        quick = {"pause_s": 0, "gone_s": 1, "again_s": 1, "folder": str(self.folder / "state")}
        start = StartOptions(
            "0.1.0", None, options.pop("image_is_ours", True), api=f"{api.url}/v2", graphql=f"{api.url}/graphql",
            **{**quick, **options},
        )  # fmt: skip
        script = self.folder / "start.sh"
        script.write_text(start_script(start))
        environment = {
            "PATH": f"{self.bin}:{os.environ['PATH']}",
            "HOME": str(self.folder),
            "RUNPOD_POD_ID": POD,
            "RUNPOD_API_KEY": KEY,
            "COMFY_GPU_OFFLOAD_TOKEN": TOKEN,
            "HF_TOKEN": "hf_of-the-user",
            **({"COMFY_GPU_OFFLOAD_IDLE_EXIT_MINUTES": "20"} if limits else {}),
            **variables,
        }
        pod = Pod([shell, str(script)], self.folder, environment, api)
        self._stack.callback(pod.close)
        return pod

    def said(self, name: str) -> str:
        return (self.folder / name).read_text()


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


@pytest.fixture
def machine(tmp_path: Path, stack: ExitStack) -> Machine:
    return Machine(tmp_path, stack)


@pytest.fixture
def api(stack: ExitStack) -> Api:
    return stack.enter_context(serving(Api()))


def until(said: str, pod: Pod, times: int = 1) -> None:
    deadline = monotonic() + 60
    while pod.log.count(said) < times:
        assert monotonic() < deadline, pod.log
        sleep(0.02)


@pytest.mark.parametrize("shell", SHELLS)
def test_a_pod_whose_worker_has_left_is_deleted(shell: str, machine: Machine, api: Api) -> None:
    pod = machine.start(_LEAVES, api, shell=shell)
    assert pod.wait() == -signal.SIGKILL
    assert api.asked == [("DELETE", f"/v2/pods/{POD}", f"Bearer {KEY}", "")]
    assert pod.log.count("served") == 1
    assert "the worker has left" in pod.log


@pytest.mark.parametrize(
    "rest",
    [(401, ""), (403, ""), (404, ""), (429, ""), (500, ""), (307, ""), (0, "")],
    ids=lambda each: str(each[0]),
)
def test_where_the_rest_api_does_not_end_it_graphql_does(rest: tuple[int, str], machine: Machine, api: Api) -> None:
    """Status 0 accepts the deletion and loses it; a redirect is not followed, and takes no key elsewhere."""
    api.rest = rest
    pod = machine.start(_LEAVES, api)
    assert pod.wait() == -signal.SIGKILL
    assert api.ways() == ["DELETE", "POST"]
    _, path, bearer, body = api.asked[1]
    assert (path, bearer) == ("/graphql", f"Bearer {KEY}")
    assert body == f'{{"query": "mutation {{ podTerminate(input: {{podId: \\"{POD}\\"}}) }}"}}'


@pytest.mark.parametrize(
    "graphql",
    [(403, ""), (200, '{"errors": [{"message": "no"}], "data": null}'), (200, "<html>"), (200, "[]"), (0, "")],
)
@pytest.mark.parametrize("words", ["pod delete", "remove pod", "pod stop", "stop pod"])
def test_where_neither_api_ends_it_runpodctl_does(
    graphql: tuple[int, str], words: str, machine: Machine, api: Api
) -> None:
    api.rest, api.graphql = (403, ""), graphql
    machine.runpodctl(words)
    pod = machine.start(_LEAVES, api)
    assert pod.wait() == -signal.SIGKILL
    assert api.ways() == ["DELETE", "POST"]


def test_where_no_api_can_be_reached_it_is_tried_again_until_one_can(machine: Machine, api: Api) -> None:
    api.rest, api.graphql = (500, ""), (500, "")
    pod = machine.start(_LEAVES, api)
    until("STILL BILLS", pod, 2)
    assert api.ways()[:4] == ["DELETE", "POST", "DELETE", "POST"]
    api.graphql = (200, '{"data": {"podTerminate": null}}')
    assert pod.wait() == -signal.SIGKILL
    assert pod.log.count("served") == 1


def test_a_worker_that_crashes_is_started_again_but_not_for_ever(machine: Machine, api: Api) -> None:
    pod = machine.start(_CRASHES, api, crashes=3)
    assert pod.wait() == -signal.SIGKILL
    assert pod.log.count("served") == 3
    assert "the worker crashed 3 times" in pod.log


def test_a_worker_that_refuses_its_settings_is_not_started_again(machine: Machine, api: Api) -> None:
    pod = machine.start(_WRONG, api)
    assert pod.wait() == -signal.SIGKILL
    assert pod.log.count("served") == 1


def test_a_worker_that_hangs_past_the_hard_limit_is_killed(machine: Machine, api: Api) -> None:
    begun = monotonic()
    pod = machine.start(_HANGS, api, grace_s=0, kill_s=1, COMFY_GPU_OFFLOAD_AT_MOST_MINUTES="0.05")
    assert pod.wait() == -signal.SIGKILL
    assert monotonic() - begun >= 2  # whole seconds are counted
    assert "the hard limit is over" in pod.log
    assert api.ways() == ["DELETE"]


def test_the_limit_counts_from_the_containers_first_start(machine: Machine, api: Api) -> None:
    first = machine.start(_SERVES, api, COMFY_GPU_OFFLOAD_AT_MOST_MINUTES="600")
    until("served", first)
    first.close()
    began = machine.folder / "state" / "began"
    began.write_text(f"{int(began.read_text()) - 6000}\n")  # as if it had been 100 minutes ago
    again = machine.start(_TELLS, api, COMFY_GPU_OFFLOAD_AT_MOST_MINUTES="600")
    assert again.wait() == -signal.SIGKILL
    assert 490 < float(machine.said("COMFY_GPU_OFFLOAD_AT_MOST_MINUTES")) <= 500
    began.write_text(f"{int(began.read_text()) - 60_000}\n")
    over = machine.start(_SERVES, api, COMFY_GPU_OFFLOAD_AT_MOST_MINUTES="600")
    assert over.wait() == -signal.SIGKILL
    assert "served" not in over.log


def test_a_machine_that_was_started_again_counts_anew(machine: Machine, api: Api) -> None:
    (machine.folder / "state").mkdir()
    (machine.folder / "state" / "began").write_text("99999999999\n")
    pod = machine.start(_TELLS, api, COMFY_GPU_OFFLOAD_AT_MOST_MINUTES="600")
    assert pod.wait() == -signal.SIGKILL
    assert 590 < float(machine.said("COMFY_GPU_OFFLOAD_AT_MOST_MINUTES")) <= 600


def test_a_signal_stops_the_worker_and_leaves_the_pod_alone(machine: Machine, api: Api) -> None:
    pod = machine.start(_SERVES, api, COMFY_GPU_OFFLOAD_AT_MOST_MINUTES="600")
    until("served", pod)
    pod.process.send_signal(signal.SIGTERM)
    assert pod.wait() == 143
    assert "told to stop" in pod.log
    assert api.asked == []


@pytest.mark.parametrize(("worker", "status"), [(_LEAVES, 0), (_WRONG, 2)])
def test_where_there_is_no_pod_it_ends_with_the_workers_status(
    worker: str, status: int, machine: Machine, api: Api
) -> None:
    pod = machine.start(worker, api, RUNPOD_POD_ID="")
    assert pod.wait() == status
    assert api.asked == []


def test_no_secret_reaches_who_does_not_need_it_or_the_log(machine: Machine, api: Api) -> None:
    api.rest, api.graphql = (403, ""), (403, "")
    pod = machine.start(_TELLS, api)
    until("STILL BILLS", pod)
    assert machine.said("COMFY_GPU_OFFLOAD_TOKEN") == TOKEN
    assert machine.said("RUNPOD_API_KEY") == "none"
    assert machine.said("HF_TOKEN") == "none"
    assert machine.said("COMFY_GPU_OFFLOAD_SERVE") == "http"
    for secret in (KEY, TOKEN, "hf_of-the-user"):
        assert secret not in pod.log
    assert machine.said("runpodctl.log").startswith(f"{KEY} pod delete {POD}\n")


@pytest.mark.parametrize("given", [{"RUNPOD_ENDPOINT_ID": "an-endpoint"}, {"limits": False}])
def test_an_endpoints_worker_and_one_without_limits_take_the_scripts_place(
    given: dict[str, Any], machine: Machine, api: Api
) -> None:
    pod = machine.start(_TELLS, api, **given)
    assert pod.wait() == 0
    assert machine.said("RUNPOD_API_KEY") == KEY
    assert machine.said("COMFY_GPU_OFFLOAD_SERVE") == "none"
    assert api.asked == []


@pytest.mark.parametrize("shell", SHELLS)
def test_a_pod_on_which_nothing_can_be_installed_is_deleted(shell: str, machine: Machine, api: Api) -> None:
    pod = machine.start(
        _LEAVES, api, shell=shell, image_is_ours=False, backend="diffusers", pack_source="file:///nowhere.whl"
    )
    assert pod.wait() == -signal.SIGKILL
    assert "the worker could not be installed" in pod.log
    assert api.ways() == ["DELETE"]


@pytest.mark.parametrize(
    ("there", "constraints", "index"),
    [
        (
            ("torch-2.9.1+cu128", "torchaudio-2.9.1+cu128"),
            ["torch==2.9.1+cu128", "torchaudio==2.9.1+cu128"],
            "--extra-index-url https://download.pytorch.org/whl/cu128",
        ),
        (("torch-2.9.1+cu128", "torchvision-0.24.1+cu128", "torchaudio-2.9.1+cu128"), None, ""),
        (("torch-2.9.1",), ["torch==2.9.1"], ""),
    ],
    ids=["without torchvision", "with all three", "from PyPI"],
)
def test_the_images_torch_is_kept_and_gets_what_is_built_like_it(
    there: tuple[str, ...], constraints: list[str] | None, index: str, machine: Machine, api: Api
) -> None:
    packages, made = machine.folder / "packages", machine.folder / "state" / "venv" / "bin"
    for name in there:
        (packages / f"{name}.dist-info").mkdir(parents=True)
        project, version = name.split("-")
        (packages / f"{name}.dist-info" / "METADATA").write_text(f"Name: {project}\nVersion: {version}\n")
    made.mkdir(parents=True)
    python = made / "python"
    # An environment in which pip only says what it was asked for.
    asked = machine.folder / "pip.log"
    python.write_text(
        f'#!/bin/sh\n[ "$1" = -c ] || {{ echo "$*" >>{asked}; exit 1; }}\n'
        f'PYTHONPATH={packages} exec {sys.executable} -S "$@"\n'
    )
    python.chmod(0o755)
    pod = machine.start(_LEAVES, api, image_is_ours=False, backend="diffusers", pack_source="file:///a.whl")
    assert pod.wait() == -signal.SIGKILL
    state = machine.folder / "state"
    wanted = [name.replace("-", "==") for name in there] if constraints is None else constraints
    assert (state / "torch.txt").read_text().split() == wanted
    assert (state / "index.txt").read_text().strip() == index
    assert f"--requirement {state}/index.txt --constraint {state}/torch.txt" in asked.read_text()


def test_an_installation_that_hangs_is_ended(machine: Machine, api: Api) -> None:
    machine.program("python3", f'case $* in *venv*) sleep 600 ;; *) exec {sys.executable} "$@" ;; esac')
    pod = machine.start(_LEAVES, api, image_is_ours=False, backend="diffusers", install_s=1)
    assert pod.wait() == -signal.SIGKILL
    assert "the worker could not be installed" in pod.log


def test_the_argument_of_a_pod_is_the_script(machine: Machine, api: Api, tmp_path: Path) -> None:
    options = StartOptions("0.1.0", "0.33.0", image_is_ours=False)
    arguments = start_args(options)
    shell, flag, command = shlex.split(arguments)
    assert (shell, flag) == ("sh", "-c")
    shown = command.replace("/tmp/start.sh", str(tmp_path / "shown.sh")).replace("exec sh", "exec cat")
    done = subprocess.run([shell, flag, shown], capture_output=True, text=True, check=True)
    assert done.stdout == start_script(options)
