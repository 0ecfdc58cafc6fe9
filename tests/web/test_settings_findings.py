"""Faults in the settings are on the page once, and again when they are new."""

from __future__ import annotations

import pytest
import requests
from tests.comfyui.harness.installation import Installation
from tests.comfyui.harness.site import Worker
from tests.comfyui.harness.workflow import DIGITS, Sampling, Scene

from .harness.screen import Screen

pytestmark = pytest.mark.comfyui

SECRET = "very-secret-0123456789"
ROUTE = "/comfy_gpu_offload/findings"


def of_ours(screen: Screen) -> list[str]:
    return [text for text in screen.toasts() if "comfy-gpu-offload: settings" in text]


def run_something(screen: Screen) -> None:
    """Run a prompt that no worker takes part in."""
    latent = screen.add("OffloadTestLatent")
    screen.set(latent, "shape", "1,16,8,8")
    save = screen.add("OffloadTestSaveLatent")
    screen.connect(latent, save)
    screen.set(save, "name", "findings")
    ended = screen.queue()
    assert ended.succeeded, ended.message


def add_line(installation: Installation, line: str) -> None:
    with installation.env_file.open("a") as file:
        file.write(line + "\n")


@pytest.mark.each_release
def test_each_finding_is_shown_once_and_a_new_one_after_a_run(
    installation: Installation, worker: Worker, screen: Screen
) -> None:
    installation.configure_for(worker)
    add_line(installation, f"COMFY_GPU_OFFLOAD_TOKENS={SECRET}")
    screen.open()
    screen.wait(lambda: of_ours(screen), "a toast of what is found")
    (shown,) = of_ours(screen)
    assert "COMFY_GPU_OFFLOAD_TOKENS is not a setting and has no effect" in shown
    assert "did you mean COMFY_GPU_OFFLOAD_TOKEN?" in shown

    add_line(installation, "RUNPOD_ENDPOINT_ID=abc123")
    add_line(installation, SECRET)
    run_something(screen)
    screen.wait(lambda: len(of_ours(screen)) == 3, "toasts of what is new, and no other")
    said = "\n".join(of_ours(screen))
    assert "COMFY_GPU_OFFLOAD_URL wins over RUNPOD_ENDPOINT_ID" in said
    assert "has no `=`" in said
    assert SECRET not in said
    screen.picture("findings")

    run_something(screen)
    with screen.page.expect_response(lambda reply: reply.url.endswith(ROUTE)):
        run_something(screen)
    assert len(of_ours(screen)) == 3

    installation.configure_for(worker)
    run_something(screen)
    screen.wait(lambda: of_ours(screen) == [], "no toast of what was mended")
    assert screen.own_errors == []


def test_a_wrong_setting_and_a_misplaced_file_are_on_the_page(installation: Installation, screen: Screen) -> None:
    installation.configure(COMFY_GPU_OFFLOAD_URL="http://192.168.1.7:8288")
    misnamed = installation.env_file.with_name(".env.txt")
    misnamed.write_text(f"COMFY_GPU_OFFLOAD_TOKEN={SECRET}\n")
    try:
        screen.open()
        screen.wait(lambda: len(of_ours(screen)) == 2, "toasts of both")
    finally:
        misnamed.unlink()
    said = "\n".join(of_ours(screen))
    assert "ssh -L" in said
    assert ".env.txt is not read" in said
    assert SECRET not in said


def test_a_folder_of_that_name_is_on_the_page(installation: Installation, screen: Screen) -> None:
    installation.env_file.unlink()
    installation.env_file.mkdir()
    try:
        screen.open()
        screen.wait(lambda: of_ours(screen), "a toast of the folder")
        assert ".env is a folder and is not read" in "\n".join(of_ours(screen))
    finally:
        installation.env_file.rmdir()


def test_nothing_is_shown_where_all_is_well(installation: Installation, worker: Worker, screen: Screen) -> None:
    installation.configure_for(worker)
    with screen.page.expect_response(lambda reply: reply.url.endswith(ROUTE)) as answer:
        screen.open()
    assert answer.value.json() == {"findings": []}
    assert of_ours(screen) == []
    assert not any("/v1/" in url for url in screen.requests)


def test_a_loaders_error_names_what_is_found(installation: Installation) -> None:
    installation.configure(
        COMFY_GPU_OFFLOAD_URL="http://127.0.0.1:9", COMFY_GPU_OFFLOAD_RETRY_S="1", COMFY_GPU_OFFLOAD_TOKENS=SECRET
    )
    scene = Scene.of(DIGITS)
    scene.sample("KSampler", scene.workflow.remote("digits.safetensors"), Sampling(steps=1), "failing")
    message = installation.comfyui.api.run(scene.workflow.graph).error_message
    assert "127.0.0.1:9" in message
    assert "Found in the settings:\n- COMFY_GPU_OFFLOAD_TOKENS is not a setting" in message
    assert SECRET not in message


@pytest.mark.parametrize(
    "headers",
    [
        {"Content-Type": "application/json", "Sec-Fetch-Site": "cross-site"},
        {"Content-Type": "application/json", "Origin": "http://evil.example"},
        {"Content-Type": "text/plain"},
    ],
)
def test_another_sites_page_is_refused(installation: Installation, headers: dict[str, str]) -> None:
    reply = requests.post(f"{installation.url}{ROUTE}", data="{}", headers=headers, timeout=60)
    assert reply.status_code == 403
