"""Sample small models with conditioning that the worker keeps, and count what of it is read or sent.

    PYTHON kept.py COMFYUI_ROOT ARCHITECTURE ...

Prints a line of JSON for each architecture: for each way, whether the latent is that of a local model, the largest
tensor that a call sent with its data, in bytes, and the bytes of conditioning that were fetched.
"""

from __future__ import annotations

import json
import sys
from typing import Any

# First: run.py makes ComfyUI importable.
import run  # isort: skip
import torch  # isort: skip
import worker  # isort: skip
from architectures import ALL  # isort: skip
from features import Run, plain  # isort: skip
from small_models import NotHereError  # isort: skip

from comfy_gpu_offload.client import forward_calls, sampling_runs
from comfy_gpu_offload.io.digests import digest
from comfy_gpu_offload.io.frame import Part, Received
from comfy_gpu_offload.io.kept.derivation import outline
from comfy_gpu_offload.io.kept.kept_tensor import KeptTensor
from comfy_gpu_offload.io.tree import map_tensors

_CPU = torch.device("cpu")
_SENT: list[int] = []


class Kept:
    """A tensor at the worker, as if a text encoder there had made it."""

    is_held = True

    def __init__(self, tensor: torch.Tensor) -> None:
        self.holder = worker.SESSION._parts.digests
        self.tensor = tensor
        self.fetched = 0
        name = digest(tensor)
        received = Received("kept", tensor.dtype, tuple(tensor.shape), name, tensor)
        worker.HANDLER._parts.uploads.keep((received,))
        self.stand_in = KeptTensor.of_digest(outline(tensor), _CPU, name, self, 0)

    def data(self, _: int) -> tuple[torch.Tensor, bool]:
        self.fetched += 1
        return self.tensor.clone(), True

    def renew(self) -> None:
        self.is_held = False


def with_kept(given: Run, kept: list[Kept]) -> Run:
    """Return the run with every tensor of its conditioning at the worker."""

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        kept.append(Kept(tensor))
        return kept[-1].stand_in

    sides = [map_tensors(side, keep) for side in (given.positive, given.negative)]
    return Run(given.latent, *sides, given.patch, given.fields)


def count_sent() -> None:
    """Have `_SENT` list the bytes of each tensor that a call sends with its data."""
    for module in (forward_calls, sampling_runs):
        seal = module.seal_parts

        def counted(message: Any, skeleton: Any, parts: list[Part], codec: Any, seal: Any = seal) -> Any:
            _SENT.extend(part.tensor.nbytes for part in parts[1:] if not part.held)
            return seal(message, skeleton, parts, codec)

        module.seal_parts = counted  # type: ignore[attr-defined]


def examined(name: str) -> dict[str, Any]:
    (architecture,) = (each for each in ALL if each.name == name)
    try:
        pair = run.load(architecture.model)
    except NotHereError:
        return {"architecture": name, "absent": True}
    expected = run.stock(pair, plain(architecture))
    found: dict[str, Any] = {"architecture": name, "context": 4 * architecture.context[0] * architecture.context[1]}
    for way, sample in run.WAYS.items():
        kept: list[Kept] = []
        _SENT.clear()
        outcome = run.outcome(sample, pair, with_kept(plain(architecture), kept), expected)
        fetched = sum(each.fetched * each.tensor.nbytes for each in kept)
        found[way] = {"outcome": outcome, "sent": max(_SENT, default=0), "fetched": fetched}
    run.release(architecture.model)
    return found


def main() -> None:
    count_sent()
    for name in sys.argv[2:] or [each.name for each in ALL]:
        print(json.dumps(examined(name)), flush=True)


if __name__ == "__main__":
    main()
