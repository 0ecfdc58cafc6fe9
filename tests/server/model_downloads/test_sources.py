"""The forms of a source, and what is none."""

from __future__ import annotations

import pytest

from comfy_gpu_offload.server.model_downloads.errors import RefusedSourceError
from comfy_gpu_offload.server.model_downloads.sources import (
    CivitaiSource,
    HashSource,
    HuggingFaceSource,
    RepositorySource,
    Source,
    WebSource,
    parse_source,
)

SHA256 = "0123456789abcdef" * 4


@pytest.mark.parametrize(
    ("text", "source"),
    [
        ("hf:org/name/x.safetensors", HuggingFaceSource("org/name", "x.safetensors")),
        ("hf:o/n/a b/x.safetensors@v1.0", HuggingFaceSource("o/n", "a b/x.safetensors", "v1.0")),
        ("HF:o/n/x.gguf@refs/pr/1", HuggingFaceSource("o/n", "x.gguf", "refs/pr/1")),
        ("hf:org/name", RepositorySource("org/name")),
        ("hf:org/name@v1", RepositorySource("org/name", "v1")),
        (" civitai:128713 ", CivitaiSource(128713)),
        ("civitai:4384@128713", CivitaiSource(128713)),
        (f"sha256:{SHA256.upper()}", HashSource(SHA256)),
        (
            "https://huggingface.co/o/n/resolve/main/a%20b/x.safetensors?download=true",
            HuggingFaceSource("o/n", "a b/x.safetensors"),
        ),
        ("https://huggingface.co/o/n/blob/v1/x.safetensors", HuggingFaceSource("o/n", "x.safetensors", "v1")),
        ("https://civitai.com/api/download/models/12?type=Model&token=t", CivitaiSource(12)),
        ("https://civitai.com/models/4384/dreamshaper?modelVersionId=128713", CivitaiSource(128713)),
    ],
)
def test_a_source_is_read(text: str, source: Source) -> None:
    assert parse_source(text) == source


def test_any_other_address_is_one_of_the_web() -> None:
    source = parse_source("https://example.org/models/vae/x.safetensors?a=1")
    assert isinstance(source, WebSource)
    assert source.address.target == "/models/vae/x.safetensors?a=1"


@pytest.mark.parametrize(
    "text",
    [
        "",
        "x.safetensors",
        "/etc/passwd",
        "hf:",
        "hf:org",
        "hf:org/name@../..",
        "hf:org/name/",
        "hf:org/name/../../api/x.safetensors",
        "hf:org/name/a//x.safetensors",
        "hf:../name/x.safetensors",
        "hf:org/name/x.safetensors@../../api",
        "hf:org/name/x\n.safetensors",
        "civitai:",
        "civitai:abc",
        "civitai:1/../2",
        "civitai:" + "1" * 40,
        "sha256:12",
        f"sha256:{SHA256}0",
        f"md5:{SHA256}",
        "https://huggingface.co/o/n/resolve/main/%2e%2e/%2e%2e/api/x.safetensors",
        "file:///etc/passwd",
    ],
)
def test_what_has_none_of_the_forms_is_refused(text: str) -> None:
    with pytest.raises(RefusedSourceError):
        parse_source(text)
