import copy
import io
import pickle
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from comfy_gpu_offload.errors import ConnectionLostError
from comfy_gpu_offload.io.digests import digest
from comfy_gpu_offload.io.kept.derivation import Derivation, outline
from comfy_gpu_offload.io.kept.kept_tensor import KeptTensor

CPU = torch.device("cpu")
WORKER = object()


class Worker:
    """A worker's kept tensors, and a count of how often their data was fetched."""

    holder = WORKER

    def __init__(self, *tensors: torch.Tensor, is_same: bool = True) -> None:
        self.is_held = True
        self.fetched = 0
        self._tensors = [tensor.clone() for tensor in tensors]
        self._is_same = is_same

    def data(self, position: int) -> tuple[torch.Tensor, bool]:
        self.fetched += 1
        return self._tensors[position].clone(), self._is_same

    def renew(self) -> None:
        self.is_held = False

    def kept(self, position: int = 0) -> KeptTensor:
        tensor = self._tensors[position]
        return KeptTensor.of_digest(outline(tensor), CPU, digest(tensor), self, position)

    def evaluate(self, known: Derivation | bytes | None) -> torch.Tensor:
        by_digest = {digest(tensor): tensor for tensor in self._tensors}
        assert known is not None
        if isinstance(known, bytes):
            return by_digest[known]
        return known.evaluate([by_digest[name] for name in known.sources], 10**6)


def noise(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


EXACT: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "cast": lambda x: x.to(torch.bfloat16),
    "cast by name, to the device": lambda x: x.to(device="cpu", dtype=torch.float16, copy=False),
    "like another": lambda x: x.to(torch.zeros(1, dtype=torch.float64)),
    "bfloat16 and back": lambda x: x.bfloat16().float(),
    "copy": lambda x: x.to(torch.float32, copy=True),
    "clone": torch.clone,
    "deepcopy": copy.deepcopy,
    "repeat": lambda x: x.repeat(2, 1, 3),
    "repeat by a sequence": lambda x: x.repeat([3] + [1] * 2).narrow(0, 0, 2),
    "expand": lambda x: x.expand(4, -1, -1),
    "expand and cast": lambda x: x.expand((4, -1, -1)).to(torch.bfloat16),
    "narrow": lambda x: x.narrow(1, 2, 3),
    "slices": lambda x: x[:, 1:4],
    "everything": lambda x: x[:],
    "ellipsis": lambda x: x[..., -2:],
    "number and None": lambda x: x[0, None, :3],
    "negative number": lambda x: x[:, -1],
    "empty slice": lambda x: x[:, 9:],
    "cat": lambda x: torch.cat([x, x]),
    "cat by name": lambda x: torch.cat((x[:, :2], x), dim=1),
    "transpose": lambda x: x.transpose(1, 2),
    "transposed and contiguous": lambda x: x.transpose(1, -1).contiguous(),
    "transposed and cast": lambda x: x.transpose(1, 2).to(torch.bfloat16),
    "permute": lambda x: x.permute(2, 0, 1),
    "reshape": lambda x: x.reshape(-1, 4),
    "reshape of a transposed": lambda x: x.transpose(1, 2).reshape(1, -1),
    "unsqueeze": lambda x: x.unsqueeze(1),
    "squeeze": lambda x: x.squeeze(0),
    "the sampler's": lambda x: torch.cat([x.repeat(2, 1, 1).narrow(0, 0, 2), x.repeat(2, 1, 1)]).to(torch.bfloat16),
}
OTHERS: dict[str, Callable[[torch.Tensor], Any]] = {
    "sum": lambda x: x * 0.3 + x,
    "item": lambda x: x[0, 0, 0].item(),
    "integers": lambda x: x.to(torch.int32),
    "numpy": lambda x: torch.from_numpy(x.numpy().copy()),
    "asarray": lambda x: torch.from_numpy(np.asarray(x).copy()),
    "as_tensor": lambda x: torch.as_tensor(x) + 0,
    "tensor": lambda x: torch.tensor(x.tolist()),
    "data": lambda x: x.data,
    "detach": lambda x: x.detach(),
    "view": lambda x: x.view(-1),
    "flatten": torch.flatten,
    "flip": lambda x: x[:, torch.tensor([3, 1])],
    "steps": lambda x: x[:, ::2],
    "mask": lambda x: x[x > 0],
    "equal": lambda x: torch.tensor(torch.equal(x, x.clone())),
    "compared": lambda x: x == torch.zeros(1),
    "stack": lambda x: torch.stack([x, x]),
    "cat with another": lambda x: torch.cat([x, torch.ones(1, 5, 4)]),
    "interpolate": lambda x: torch.nn.functional.interpolate(x, 7),
    "linear": lambda x: torch.nn.functional.linear(x, torch.eye(4)),
    "written elsewhere": lambda x: torch.empty(1, 5, 4).copy_(x),
    "out": lambda x: torch.add(x, 1, out=torch.empty(0)),
    "memory format": lambda x: x.unsqueeze(0).to(memory_format=torch.channels_last),
    "text": lambda x: torch.tensor(list(f"{x}{x!r}".encode())),
    "storage": lambda x: torch.tensor(list(x.untyped_storage())),
    "iterated": lambda x: next(row + 0 for row in x),
    "pickled": lambda x: pickle.loads(pickle.dumps(x)),
}


@pytest.mark.parametrize("name", EXACT)
def test_an_exact_operation_needs_no_data_and_gives_the_same_bits(name: str) -> None:
    tensor = noise(1, 5, 4)
    worker = Worker(tensor)
    expected = EXACT[name](tensor)
    made = EXACT[name](worker.kept())
    assert (made.dtype, made.shape, made.stride()) == (expected.dtype, expected.shape, expected.stride())
    assert isinstance(made, KeptTensor)
    there = worker.evaluate(made.derivation(WORKER))
    assert worker.fetched == 0
    for found in (there, made.data_here()):
        assert (found.dtype, found.stride()) == (expected.dtype, expected.stride())
        assert torch.equal(found, expected)


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
@pytest.mark.parametrize("name", OTHERS)
def test_anything_else_gets_the_data(name: str, mode: Any) -> None:
    tensor = noise(1, 5, 4)
    worker = Worker(tensor)
    with mode():
        found = OTHERS[name](worker.kept())
        expected = OTHERS[name](tensor)
    assert worker.fetched == 1
    if isinstance(expected, torch.Tensor):
        assert type(found) is torch.Tensor
        assert (found.dtype, found.stride()) == (expected.dtype, expected.stride())
        assert torch.equal(found, expected)
    else:
        assert found == expected


def test_facts_need_no_data() -> None:
    worker = Worker(noise(1, 5, 4))
    kept = worker.kept()
    assert isinstance(kept, torch.Tensor)
    assert torch.is_tensor(kept)
    assert (kept.shape, kept.size(1), kept.dtype, kept.device) == (torch.Size((1, 5, 4)), 5, torch.float32, CPU)
    assert (len(kept), kept.ndim, kept.numel(), kept.element_size(), kept.nbytes) == (1, 3, 20, 4, 80)
    assert kept.is_contiguous()
    assert kept.is_floating_point()
    assert not kept.requires_grad
    assert hash(kept) == id(kept)
    assert kept in {kept: None}
    assert kept.to(torch.float32) is kept
    assert kept.to("cpu") is kept
    assert kept.contiguous() is kept
    assert kept.cpu() is kept
    assert torch.equal(torch.zeros_like(kept), torch.zeros(1, 5, 4))
    assert torch.empty_like(kept, dtype=torch.float16).device == CPU
    assert worker.fetched == 0


def test_a_tensor_that_was_read_is_still_known_to_the_worker() -> None:
    tensor = noise(1, 5, 4)
    worker = Worker(tensor)
    kept = worker.kept()
    assert kept.mean() == tensor.mean()
    made = kept.to(torch.bfloat16)
    assert isinstance(made, KeptTensor)
    assert torch.equal(worker.evaluate(made.derivation(WORKER)), tensor.bfloat16())
    assert kept.derivation(WORKER) == digest(tensor)
    assert worker.fetched == 1


CHANGES: dict[str, Callable[[torch.Tensor], Any]] = {
    "in place": lambda x: x.mul_(2),
    "an operator": lambda x: x.__imul__(2),
    "an entry": lambda x: x.__setitem__((0, 1), 7.0),
    "a view": lambda x: x.view(-1)[3:5].zero_(),
    "a narrowed one": lambda x: x.narrow(1, 1, 2).zero_(),
    "a slice": lambda x: x[:, 1:3].fill_(3),
    "data": lambda x: x.data.add_(1),
    "numpy": lambda x: x.numpy().fill(2),
    "out": lambda x: torch.add(x, 1, out=x),
}


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
@pytest.mark.parametrize("name", CHANGES)
def test_a_change_reaches_views_alone_and_is_never_taken_for_what_the_worker_has(name: str, mode: Any) -> None:
    tensor = noise(1, 5, 4)
    worker = Worker(tensor)
    found = []
    with mode():
        for whole in (tensor.clone(), worker.kept()):
            view, copied, half = whole[:, 1:4], whole.clone(), whole.to(torch.bfloat16)
            CHANGES[name](whole)
            later = whole.to(torch.bfloat16)
            found.append((whole, view, copied, half, later))
    for expected, made in zip(*found, strict=True):
        known = made.derivation(WORKER) if isinstance(made, KeptTensor) else None
        assert torch.equal(made + 0, expected)
        assert known is None or torch.equal(worker.evaluate(known), expected)
    assert isinstance(found[1][3], KeptTensor)
    assert found[1][3].derivation(WORKER) is not None
    assert not isinstance(found[1][4], KeptTensor)


def test_a_change_of_a_tensor_made_later_leaves_those_before() -> None:
    tensor = noise(1, 5, 4)
    worker = Worker(tensor)
    kept = worker.kept()
    half = kept.to(torch.bfloat16)
    half += 1
    assert isinstance(half, KeptTensor)
    assert half.derivation(WORKER) is None
    assert torch.equal(half + 0, tensor.bfloat16() + 1)
    assert kept.derivation(WORKER) == digest(tensor)
    assert torch.equal(kept + 0, tensor)


def test_tensors_of_several_results_are_joined() -> None:
    one, other = noise(1, 5, 4), noise(1, 3, 4, seed=1)
    workers = Worker(one), Worker(other)
    joined = torch.cat([worker.kept() for worker in workers], 1)
    assert isinstance(joined, KeptTensor)
    known = joined.derivation(WORKER)
    assert isinstance(known, Derivation)
    assert torch.equal(known.evaluate([one, other], 1000), torch.cat([one, other], 1))
    assert torch.equal(joined * 1, torch.cat([one, other], 1))
    assert [worker.fetched for worker in workers] == [1, 1]


def test_another_worker_knows_it_not() -> None:
    worker = Worker(noise(1, 5, 4))
    kept = worker.kept().to(torch.bfloat16)
    assert kept.derivation(object()) is None
    worker.is_held = False
    assert kept.derivation(WORKER) is None


def test_data_that_was_computed_anew_and_differs_is_not_taken_for_what_was_kept() -> None:
    worker = Worker(noise(1, 5, 4), is_same=False)
    kept = worker.kept()
    half = kept.to(torch.bfloat16)
    kept.sum()
    assert kept.derivation(WORKER) is None
    assert half.derivation(WORKER) is None


def test_a_failure_to_fetch_is_raised_and_the_next_attempt_succeeds(monkeypatch: pytest.MonkeyPatch) -> None:
    tensor = noise(1, 5, 4)
    worker = Worker(tensor)
    kept = worker.kept()

    def fail(_: int) -> Any:
        raise ConnectionLostError("The connection was lost.")

    with monkeypatch.context() as patch:
        patch.setattr(worker, "data", fail)
        with pytest.raises(ConnectionLostError):
            kept + 1
    assert torch.equal(kept + 1, tensor + 1)


def test_a_long_chain_of_operations_ends_in_data() -> None:
    tensor = noise(1, 5, 4)
    worker = Worker(tensor)
    made: torch.Tensor = worker.kept()
    for _ in range(100):
        made = torch.cat([made[:1], made[:1]])[:1]
    assert worker.fetched == 1
    assert torch.equal(made, tensor)


def test_torch_saves_and_loads_it() -> None:
    tensor = noise(1, 5, 4)
    file = io.BytesIO()
    torch.save({"cond": Worker(tensor).kept()}, file)
    file.seek(0)
    found = torch.load(file, weights_only=True)["cond"]
    assert type(found) is torch.Tensor
    assert torch.equal(found, tensor)


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
@pytest.mark.parametrize("was_read", [False, True])
def test_a_compiled_function_gets_the_data(mode: Any, was_read: bool) -> None:
    tensor = noise(1, 5, 4)
    kept = Worker(tensor).kept()
    compiled = torch.compile(lambda x: x.to(torch.float64) * 2 + x[:, :1], backend="eager")
    with mode():
        if was_read:
            kept.sum()
        assert torch.equal(compiled(kept), tensor.to(torch.float64) * 2 + tensor[:, :1])
