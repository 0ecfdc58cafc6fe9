"""The public forge's workflows: every command, file and permission that they name exists. None of them is run."""

from __future__ import annotations

import importlib.util
import re
import shlex
import subprocess
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml
from packaging.requirements import Requirement

from comfy_gpu_offload.cli.main import COMMANDS
from comfy_gpu_offload.rental.images import IMAGE_COMFYUI, published_name

ROOT = Path(__file__).parents[1]
FOLDER = ROOT / ".github" / "workflows"
FILES = sorted(FOLDER.glob("*.yml"))
WORKFLOWS: dict[str, dict[str, Any]] = {file.name: yaml.safe_load(file.read_text("utf-8")) for file in FILES}
METADATA = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
# What a job may write to, beyond the `contents: read` of every workflow.
WRITES = {
    ("release.yml", "pypi"): {"id-token"},
    ("release.yml", "image"): {"packages"},
    ("release.yml", "github"): {"contents"},
}
SECRETS = {("release.yml", "registry"): {"REGISTRY_ACCESS_TOKEN"}}
# Programs that every hosted runner has.
ON_A_RUNNER = {"apt-get", "cd", "docker", "echo", "exit", "gh", "git", "python", "python3", "rm", "test"}
_WRAPPERS = {"sudo"}
_SHELL_WORDS = {"do", "done", "for", "then", "{", "}"}


@dataclass(frozen=True)
class Step:
    """A step of a job, and the packages that pip has installed by then."""

    workflow: str
    job: str
    run: str
    installed: frozenset[str]

    def __str__(self) -> str:
        return f"{self.workflow}-{self.job}-{self.run.splitlines()[0][:40]}"


def jobs() -> list[tuple[str, str, dict[str, Any]]]:
    return [(name, job, body) for name, flow in WORKFLOWS.items() for job, body in flow["jobs"].items()]


def uses() -> list[str]:
    """Return the values of all `uses:`, comments included."""
    return [
        line.split("uses:")[1].strip()
        for file in FILES
        for line in file.read_text("utf-8").splitlines()
        if "uses:" in line
    ]


def commands(script: str) -> Iterator[list[str]]:
    """Yield the words of each simple command of a shell script; those of `$(…)` as commands too."""
    joined = script.replace("\\\n", " ")
    for line in joined.splitlines():
        lexer = shlex.shlex(line, posix=True, punctuation_chars="();<>|&\n")
        lexer.whitespace_split = True
        words: list[str] = []
        for word in [*lexer, ";"]:
            if word in {";", "&&", "||", "|", "(", ")"}:
                if found := _without_shell(words):
                    yield found
                words = []
            else:
                words.append(word)
    for inner in re.findall(r"\$\(([^()]*(?:\([^()]*\)[^()]*)*)\)", joined):
        yield from commands(inner)


def _without_shell(words: list[str]) -> list[str]:
    while words and (words[0] in _SHELL_WORDS | _WRAPPERS or re.match(r"\w+=", words[0])):
        words = [] if words[0] == "for" else words[1:]
    return words


def steps() -> list[Step]:
    found = []
    for name, job, body in jobs():
        installed: set[str] = set()
        for step in body.get("steps", []):
            if "run" in step:
                found.append(Step(name, job, step["run"], frozenset(installed)))
                for words in commands(step["run"]):
                    if "install" in words and "pip" in words:
                        installed |= {word.split("==")[0] for word in words[words.index("install") + 1 :]}
    return found


STEPS = steps()


def test_there_are_workflows_to_test_build_and_release() -> None:
    assert [file.name for file in FILES] == ["build.yml", "release.yml", "test.yml"]
    # YAML 1.1 reads `on` as a truth value.
    events = {name: flow[True] for name, flow in WORKFLOWS.items()}
    assert events["release.yml"] == {"push": {"tags": ["v*"]}}
    for name in ("build.yml", "test.yml"):
        assert events[name].keys() == {"push", "pull_request", "workflow_call"}
        assert events[name]["push"] == {"branches": ["main"]}


@pytest.mark.parametrize("name", WORKFLOWS)
def test_two_runs_for_one_change_do_not_go_on_side_by_side(name: str) -> None:
    assert "github.ref" in WORKFLOWS[name]["concurrency"]["group"]
    cancelled = WORKFLOWS[name]["concurrency"]["cancel-in-progress"]
    assert cancelled is False if name == "release.yml" else cancelled


@pytest.mark.parametrize(("name", "job", "body"), jobs())
def test_a_job_may_write_only_what_it_has_to(name: str, job: str, body: dict[str, Any]) -> None:
    assert WORKFLOWS[name]["permissions"] == {"contents": "read"}
    permissions = body.get("permissions", {})
    assert {scope for scope, access in permissions.items() if access == "write"} == WRITES.get((name, job), set())
    given = set(re.findall(r"secrets\.(\w+)", yaml.safe_dump(body))) - {"GITHUB_TOKEN"}
    assert given == SECRETS.get((name, job), set())


@pytest.mark.parametrize(("name", "job", "body"), jobs())
def test_every_job_ends_in_time_on_a_named_release_of_its_system(name: str, job: str, body: dict[str, Any]) -> None:
    if "uses" in body:
        return  # the jobs of the workflow that it calls are looked at there
    assert 0 < body["timeout-minutes"] <= 90
    systems = body.get("strategy", {}).get("matrix", {}).get("system", [body["runs-on"]])
    assert all(re.fullmatch(r"(ubuntu|windows|macos)-[\d.]+", system) for system in systems)


@pytest.mark.parametrize("used", sorted(set(uses())))
def test_what_is_used_of_others_is_pinned_to_a_commit(used: str) -> None:
    if used.startswith("./"):
        assert (ROOT / used).is_file()
        assert "workflow_call" in WORKFLOWS[Path(used).name][True]
    else:
        assert re.fullmatch(r"[\w.-]+/[\w.-]+@[0-9a-f]{40} # v\d+\.\d+\.\d+", used)


def test_an_action_is_used_in_one_version() -> None:
    pinned = {used.split("@")[0]: used for used in uses()}
    assert set(uses()) == set(pinned.values())


@pytest.mark.parametrize("step", STEPS, ids=str)
def test_a_step_is_valid_shell_into_which_nothing_is_pasted(step: Step) -> None:
    assert "${{" not in step.run  # a branch's name would be run
    done = subprocess.run(["bash", "-n"], input=step.run, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("step", STEPS, ids=str)
def test_a_step_runs_commands_that_exist(step: Step) -> None:
    found = list(commands(step.run))
    assert found
    for words in found:
        check(words, step)


def check(words: list[str], step: Step) -> None:
    """Fail where a command, or what it is given, is not there."""
    program = words[0].rsplit("/bin/", 1)[-1]
    if program == "make":
        targets = re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text("utf-8"), re.MULTILINE)
        assert words[1:]
        assert set(words[1:]) <= set(targets)
    elif words[:2] == ["docker", "build"]:
        assert (ROOT / words[-1] / "Dockerfile").is_file()
        assert "--file" not in words
    elif program == "comfy":
        assert "comfy-cli" in step.installed
    elif program in METADATA["project"]["scripts"]:
        assert words[1] in COMMANDS or words[1] == "--version"
    elif program.startswith("python") and words[1] == "-m":
        check_module(words[2], words[3:], step)
    else:
        assert program in ON_A_RUNNER, words


def check_module(module: str, arguments: list[str], step: Step) -> None:
    """Fail where `python -m module` has no such module, or its arguments name what is not there."""
    assert module in step.installed or importlib.util.find_spec(module) is not None, module
    if module == "pip":
        check_installed(arguments)
    elif module == "pytest":
        markers = {line.split(":")[0] for line in METADATA["tool"]["pytest"]["ini_options"]["markers"]}
        assert ".[dev]" in step.installed
        expression = arguments[arguments.index("-m") + 1]
        assert set(re.findall(r"\w+", expression)) - {"not", "and", "or"} <= markers


def check_installed(arguments: list[str]) -> None:
    assert arguments[0] == "install"
    options = iter(arguments[1:])
    for argument in options:
        if argument in {"--constraint", "--requirement"}:
            file = next(options)
            assert file.startswith("$") or (ROOT / file).is_file(), file
        elif argument == "--editable":
            extra = re.fullmatch(r"\.\[(\w+)\]", next(options))
            assert extra is not None
            assert extra[1] in METADATA["project"]["optional-dependencies"]
        elif argument != "dist/*.whl":
            (bound,) = Requirement(argument).specifier
            assert bound.operator == "==", argument


def test_what_pips_cache_depends_on_is_there() -> None:
    named = [
        step["with"]["cache-dependency-path"].split()
        for _, _, body in jobs()
        for step in body.get("steps", [])
        if "cache" in step.get("with", {})
    ]
    assert named
    assert all((ROOT / file).is_file() for files in named for file in files)


def test_the_pythons_are_those_that_the_package_is_for() -> None:
    said = [line.rsplit(" ", 1)[1] for line in METADATA["project"]["classifiers"] if ":: Python :: 3." in line]
    matrices = {job: body["strategy"]["matrix"]["python"] for _, job, body in jobs() if "strategy" in body}
    assert matrices["linux"] == said
    assert matrices["portable"] == [said[0], said[-1]]


def test_up_takes_the_image_that_a_release_publishes() -> None:
    assert published_name() == f"ghcr.io/comfy-gpu-offload/comfy-gpu-offload:{METADATA['project']['version']}"
    assert METADATA["project"]["urls"]["Repository"].endswith("github.com/comfy-gpu-offload/comfy-gpu-offload")
    scripts = "\n".join(step.run for step in STEPS if step.job == "image" and step.workflow == "release.yml")
    assert 'image="ghcr.io/${GITHUB_REPOSITORY_OWNER,,}/comfy-gpu-offload"' in scripts
    assert '--tag "$image:${GITHUB_REF_NAME#v}"' in scripts
    arguments = dict(re.findall(r"^ARG (\w+)=(\S+)", (ROOT / "Dockerfile").read_text("utf-8"), re.MULTILINE))
    assert arguments["COMFYUI_VERSION"] == IMAGE_COMFYUI


def test_comfy_cli_is_of_the_images_release() -> None:
    arguments = dict(re.findall(r"^ARG (\w+)=(\S+)", (ROOT / "Dockerfile").read_text("utf-8"), re.MULTILINE))
    assert f"comfy-cli=={arguments['COMFY_CLI_VERSION']}" in (FOLDER / "release.yml").read_text("utf-8")


def test_nothing_is_published_before_it_is_tested_and_built() -> None:
    release = WORKFLOWS["release.yml"]["jobs"]
    for job in ("pypi", "image", "registry"):
        assert set(release[job]["needs"]) == {"test", "build"}
    assert set(release["github"]["needs"]) == {"pypi", "image", "registry"}
    assert {release[job]["uses"] for job in ("test", "build")} == {
        "./.github/workflows/test.yml",
        "./.github/workflows/build.yml",
    }
    assert {release[job]["needs"] for job in ("test", "build")} == {"version"}
