"""Weight patches on their way to a worker: what crosses, what is kept, what is refused."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch

from comfy_gpu_offload.backends.base import HookSet
from comfy_gpu_offload.client.remote_model import RemoteModel
from comfy_gpu_offload.client.session import Session, SessionOptions
from comfy_gpu_offload.client.weight_patches import PART_BYTES, HookPatches, WeightPatches
from comfy_gpu_offload.errors import WorkerFaultError
from comfy_gpu_offload.io.digests import digest
from comfy_gpu_offload.io.frame import Part
from comfy_gpu_offload.io.tree import pack
from comfy_gpu_offload.protocol.envelope import open_frame, seal_parts
from comfy_gpu_offload.protocol.messages import Define, Fault, FaultCode, Store, WholeTensor
from comfy_gpu_offload.server.blob_folder import BlobFolder
from comfy_gpu_offload.server.handler import Handler, HandlerOptions
from comfy_gpu_offload.transport.base import Check, Timeouts

from ..support.backend import FunctionBackend

X = torch.ones(2, 3)
CLIENT = "c" * 16


class Direct:
    """A transport to a handler in this process, which can be replaced, and can lose what is sent."""

    carries_cancel = True
    peer = "a worker in this process"

    def __init__(self, handler: Handler) -> None:
        self.handler = handler
        self.sent: list[tuple[str, int]] = []
        self.lose_from: int | None = None

    def exchange(self, route: str, frame: Any, timeouts: Timeouts, check: Check | None = None) -> memoryview:
        if check is not None:
            check()
        if route != "cancel" and self.lose_from is not None and len(self.sent) >= self.lose_from:
            raise KeyboardInterrupt
        self.sent.append((route, frame.size_bytes))
        return memoryview(self.handler.handle(frame.joined()).joined())

    def stream(
        self, route: str, frame: Any, timeouts: Timeouts, check: Check | None = None
    ) -> Iterator[memoryview]:
        self.sent.append((route, frame.size_bytes))
        for reply in self.handler.stream(frame.joined()):
            yield memoryview(reply.joined())

    def close(self) -> None:
        """Nothing to close."""

    def sent_bytes(self) -> int:
        total = sum(size for _, size in self.sent)
        self.sent.clear()
        return total


@pytest.fixture
def backend() -> FunctionBackend:
    return FunctionBackend()


@pytest.fixture
def link(backend: FunctionBackend) -> Direct:
    return Direct(Handler(backend))


@pytest.fixture
def model(link: Direct) -> RemoteModel:
    return Session(link, SessionOptions()).model("double")  # type: ignore[arg-type]


def tensors(*sizes: int) -> dict[bytes, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    made = [torch.randn(size // 4, generator=generator) for size in sizes]
    return {digest(tensor): tensor for tensor in made}


def patches(held: Mapping[bytes, torch.Tensor], *strengths: float, **further: Any) -> WeightPatches:
    template = {"layer": [[0, "diff", [name, False], None, None] for name in held]}
    return WeightPatches(template, tuple((strength, 1.0) for strength in strengths or (1.0,)), held, **further)


def assert_got(backend: FunctionBackend, given: WeightPatches) -> None:
    got = backend.patches[-1]
    assert got is not None
    assert got.template == given.template
    assert got.strengths == given.strengths
    assert got.tensors.keys() == given.tensors.keys()
    assert all(torch.equal(got.tensors[name], tensor) for name, tensor in given.tensors.items())


def test_a_call_has_the_patches_that_it_names(backend: FunctionBackend, model: RemoteModel) -> None:
    given = patches(tensors(400, 800), 0.5)
    assert torch.equal(model.patched(given, (X,), {}), X * 2)
    assert_got(backend, given)
    model(X)
    assert backend.patches[-1] is None


def test_a_run_has_them_too(backend: FunctionBackend, model: RemoteModel) -> None:
    given = patches(tensors(400), 0.5)
    fields = {"sampler": "double", "scheduler": "simple", "seed": 1, "steps": 2, "cfg": 1.0}
    model.sample(fields, {"latent": X}, patches=given)
    assert_got(backend, given)


def test_tensors_cross_once_and_strengths_cost_nothing(
    backend: FunctionBackend, model: RemoteModel, link: Direct
) -> None:
    held = tensors(200_000, 200_000)
    model.patched(patches(held, 1.0), (X,), {})
    assert link.sent_bytes() > 400_000
    model.patched(patches(held, 0.25), (X,), {})
    assert [route for route, _ in link.sent] == ["forward"]
    assert link.sent_bytes() < 2000
    assert backend.patches[-1] is not None
    assert backend.patches[-1].strengths == ((0.25, 1.0),)
    model.patched(patches({**held, **tensors(300, 100_000)}, 1.0), (X,), {})
    assert 100_000 < link.sent_bytes() < 150_000


def test_another_client_uploads_nothing(backend: FunctionBackend, model: RemoteModel, link: Direct) -> None:
    given = patches(tensors(200_000))
    model.patched(given, (X,), {})
    other = Session(link, SessionOptions()).model("double")  # type: ignore[arg-type]
    link.sent.clear()
    other.patched(given, (X,), {})
    assert link.sent_bytes() < 2000


def test_a_large_tensor_crosses_in_parts_below_the_carriers_limit(
    backend: FunctionBackend, model: RemoteModel, link: Direct
) -> None:
    seen: list[tuple[int, int]] = []
    total = 2 * PART_BYTES + PART_BYTES // 2
    given = patches(tensors(total), on_upload=lambda done, of: seen.append((done, of)))
    model.patched(given, (X,), {})
    assert_got(backend, given)
    assert max(size for _, size in link.sent) < PART_BYTES + 4096
    assert seen == sorted(seen)
    assert seen[-1] == (total, total)
    assert len({done for done, _ in seen}) >= 3


def test_a_tensor_of_equal_parts_is_put_together_again(backend: FunctionBackend, model: RemoteModel) -> None:
    zeros = torch.zeros(PART_BYTES)
    given = patches({digest(zeros): zeros})
    model.patched(given, (X,), {})
    assert_got(backend, given)


def test_an_upload_that_was_interrupted_goes_on_where_it_stopped(
    backend: FunctionBackend, model: RemoteModel, link: Direct
) -> None:
    given = patches(tensors(3 * PART_BYTES, 3 * PART_BYTES - 400))
    link.lose_from = len(link.sent) + 5
    with pytest.raises(KeyboardInterrupt):
        model.patched(given, (X,), {})
    link.lose_from = None
    sent = link.sent_bytes()
    assert sent > 2 * PART_BYTES
    model.patched(given, (X,), {})
    assert_got(backend, given)
    assert link.sent_bytes() + sent < 6 * PART_BYTES + PART_BYTES // 2


def test_a_restart_costs_an_upload_where_there_is_no_folder(
    backend: FunctionBackend, model: RemoteModel, link: Direct
) -> None:
    given = patches(tensors(200_000))
    model.patched(given, (X,), {})
    link.handler = Handler(backend)
    link.sent.clear()
    model.patched(given, (X,), {})
    assert_got(backend, given)
    assert link.sent_bytes() > 200_000


def test_a_restart_costs_a_message_where_there_is_one(backend: FunctionBackend, tmp_path: Path) -> None:
    link = Direct(Handler(backend, HandlerOptions(uploads=BlobFolder(tmp_path, 1 << 26))))
    model = Session(link, SessionOptions()).model("double")  # type: ignore[arg-type]
    given = patches(tensors(200_000, 2 * PART_BYTES))
    model.patched(given, (X,), {})
    link.handler = Handler(backend, HandlerOptions(uploads=BlobFolder(tmp_path, 1 << 26)))
    link.sent.clear()
    model.patched(given, (X,), {})
    assert_got(backend, given)
    assert link.sent_bytes() < 4000
    assert len(list(tmp_path.iterdir())) == 2  # the parts are gone


def test_a_call_has_the_hooks_that_it_names_beside_its_patches(
    backend: FunctionBackend, model: RemoteModel
) -> None:
    on, over = patches(tensors(400), 0.5), patches(tensors(800), 0.25, 0.75)
    model.patched(on, (X,), {}, HookPatches(over, single=(1,), group=2))
    assert_got(backend, on)
    got = backend.hooks[-1]
    assert got is not None
    assert got.patches is not None
    assert (got.patches.template, got.patches.strengths) == (over.template, over.strengths)
    assert (got.single, got.group) == ((1,), 2)
    model.patched(None, (X,), {}, HookPatches())
    assert backend.hooks[-1] == HookSet()
    model(X)
    assert (backend.patches[-1], backend.hooks[-1]) == (None, None)


def test_hooks_cross_once_and_another_strength_is_a_few_bytes(
    backend: FunctionBackend, model: RemoteModel, link: Direct
) -> None:
    over = patches(tensors(200_000), 1.0)
    model(X)
    plain = link.sent[-1][1]
    link.sent.clear()
    model.patched(None, (X,), {}, HookPatches(over, group=0))
    assert link.sent_bytes() > 200_000
    model.patched(None, (X,), {}, HookPatches(over.at(((0.3, 1.0),)), group=0))
    ((route, sent),) = link.sent
    assert (route, sent < plain + 200) == ("forward", True)
    got = backend.hooks[-1]
    assert got is not None
    assert got.patches is not None
    assert got.patches.strengths == ((0.3, 1.0),)


def test_a_restarted_worker_is_told_of_patches_and_hooks(
    backend: FunctionBackend, model: RemoteModel, link: Direct
) -> None:
    on, over = patches(tensors(400), 0.5), patches(tensors(800), 0.25)
    model.patched(on, (X,), {}, HookPatches(over))
    link.handler = Handler(backend)
    model.patched(on, (X,), {}, HookPatches(over))
    assert_got(backend, on)
    assert backend.hooks[-1] is not None
    assert backend.hooks[-1].patches is not None


def test_a_worker_without_room_says_so(backend: FunctionBackend) -> None:
    link = Direct(Handler(backend, HandlerOptions(store_bytes=100)))
    model = Session(link, SessionOptions()).model("double")  # type: ignore[arg-type]
    with pytest.raises(WorkerFaultError, match="STORE_BYTES"):
        model.patched(patches(tensors(4000)), (X,), {})
    assert torch.equal(model(X), X * 2)


def answer(handler: Handler, message: Any, tree: Any = None, parts: list[Part] | None = None) -> Fault:
    frame = seal_parts(message, pack(tree, "tree").skeleton, parts or [])
    reply = open_frame(handler.handle(frame.joined()).joined()).message
    assert isinstance(reply, Fault)
    return reply


def test_what_does_not_match_its_digest_is_refused(link: Direct) -> None:
    lying = Part("0", torch.ones(4), digest(torch.zeros(4)))
    fault = answer(link.handler, Store(client=CLIENT), None, [lying])
    assert fault.code is FaultCode.WRONG_DIGEST
    fault = answer(link.handler, Define(client=CLIENT, template=bytes(32)), {"layer": []})
    assert fault.code is FaultCode.WRONG_DIGEST


def test_parts_that_are_not_the_whole_are_refused(link: Direct) -> None:
    part = torch.arange(16, dtype=torch.uint8)
    sent = seal_parts(Store(client=CLIENT), None, [Part("0", part, digest(part))])
    link.handler.handle(sent.joined())
    for shape, code in (((4,), FaultCode.WRONG_DIGEST), ((5,), FaultCode.BAD_MESSAGE)):
        whole = WholeTensor(digest=bytes(32), dtype="float32", shape=shape, parts=(digest(part),))
        assert answer(link.handler, Store(client=CLIENT, whole=whole)).code is code


def test_a_part_named_many_times_takes_no_memory(link: Direct) -> None:
    """A message of 2 MB could ask for 256 GB."""
    part = torch.zeros(PART_BYTES, dtype=torch.uint8)
    link.handler.handle(seal_parts(Store(client=CLIENT), None, [Part("0", part, digest(part))]).joined())
    count = 65_536
    for size, code in ((count * PART_BYTES, FaultCode.TOO_LARGE), (PART_BYTES, FaultCode.BAD_MESSAGE)):
        whole = WholeTensor(digest=bytes(32), dtype="uint8", shape=(size,), parts=(digest(part),) * count)
        assert answer(link.handler, Store(client=CLIENT, whole=whole)).code is code


def test_an_upload_without_digests_is_refused(link: Direct) -> None:
    fault = answer(link.handler, Store(client=CLIENT), None, [Part("0", torch.ones(4))])
    assert fault.code is FaultCode.BAD_MESSAGE
