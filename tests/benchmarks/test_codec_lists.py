"""The benchmarks measure every codec that is listed."""

from __future__ import annotations

import runpy
from pathlib import Path

from comfy_gpu_offload.codec_names import CODECS
from comfy_gpu_offload.io import codecs

LOSSLESS = {name for name in codecs.names() if codecs.named(name).lossless}


def test_runs_over_links_are_made_with_every_codec() -> None:
    from each_step_runs import WAYS

    assert {options.codec.name for options in WAYS.values()} == {*CODECS, "auto"}


def test_sizes_and_pictures_are_compared_of_every_codec() -> None:
    import codec_cases
    import quality

    # By its path: `import codecs` gives the standard library's module.
    benchmark = runpy.run_path(str(Path(codec_cases.__file__).with_name("codecs.py")))
    assert {codec.name for codec in benchmark["OURS"]} == {*CODECS, "auto"}
    assert {codec.name for codec in quality.LOSSY} == CODECS.keys() - LOSSLESS
