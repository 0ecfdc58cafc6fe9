from __future__ import annotations

from pathlib import Path

import pytest
import torch

from comfy_gpu_offload.client.capture import Capture


def test_a_captured_run_is_a_case_for_each_tensor_and_repeats_count_once(tmp_path: Path) -> None:
    from codec_cases import captured

    context = torch.randn(1, 77, 64)
    latents = [torch.randn(1, 4, 32, 32) for _ in range(7)]
    capture = Capture(tmp_path, 10**8)
    for latent in latents:
        capture.call(["args[0]", "args[1]", "context"], [latent, torch.ones(1), context.clone()], latent.half())
    cases = list(captured(tmp_path, most=3))
    assert [case.name for case in cases] == ["args[0]", "context", "result"]
    assert len({case.source for case in cases}) == 1
    assert [len(case.tensors) for case in cases] == [3, 1, 3]
    assert torch.equal(cases[0].tensors[0], latents[0])
    assert torch.equal(cases[0].tensors[2], latents[6])


def test_a_folder_without_captures_is_refused(tmp_path: Path) -> None:
    from codec_cases import captured

    with pytest.raises(SystemExit, match="safetensors"):
        list(captured(tmp_path, most=3))
    (tmp_path / "broken.safetensors").write_bytes(b"no such thing")
    with pytest.raises(SystemExit, match=r"broken\.safetensors"):
        list(captured(tmp_path, most=3))
