"""A third kind of module, registered here alone: found, listed, described, loaded, called, patched and evicted."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Self

import pytest
import torch
from tests.support.comfy_stand_in.fixtures import StandIn

from comfy_gpu_offload.backends.base import HookSet, ModelNotFoundError, ModelRunError, ModuleCall, PatchSet
from comfy_gpu_offload.io.digests import digest
from comfy_gpu_offload.protocol.messages import ModelRef, SampleJob

CONTRIBUTING = Path(__file__).parents[4] / "CONTRIBUTING.md"
REF = ModelRef(name="encoder:words.safetensors")
WEIGHTS = torch.arange(6.0).reshape(3, 2)
CHANGE = torch.ones(3, 2)


class Network(torch.nn.Module):
    def __init__(self, table: torch.Tensor) -> None:
        super().__init__()
        self.table = torch.nn.Parameter(table, requires_grad=False)
        self.current_weight_patches_uuid = None
        self.model_lowvram = False

    def encode(self, tokens: list[int], scale: float = 1.0) -> torch.Tensor:
        return self.table[tokens] * scale

    def save(self, path: str) -> None:
        raise AssertionError("never called")


def check_tokens(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
    tokens = args[0] if args else None
    if not isinstance(tokens, list) or not all(type(token) is int for token in tokens):
        raise ModelRunError("The tokens are no list of numbers.")


def new_kind() -> type[Any]:
    """Return an encoder that looks tokens up in a table."""
    import comfy.model_management
    import comfy.utils
    from comfy.model_patcher import ModelPatcher

    from comfy_gpu_offload.comfyui.installation.model_files import FileKind
    from comfy_gpu_offload.comfyui.worker.modules.runnable_module import ModuleFiles, RunnableModule

    class Encoder(RunnableModule):
        prefix = "encoder:"
        files = FileKind("text encoder", ("text_encoders",), {"clip": "text_encoders"})
        methods = {"encode": check_tokens}  # noqa: RUF012

        def __init__(self, weights: dict[str, torch.Tensor]) -> None:
            device = comfy.model_management.text_encoder_device()
            self._patcher = ModelPatcher(Network(weights["table"]), device, device)

        @classmethod
        def load(cls, found: ModuleFiles) -> Self:
            return cls(comfy.utils.load_torch_file(str(found.files[0].path)))

        def patchers(self) -> list[Any]:
            return [self._patcher]

        def callee(self, patcher: Any) -> Any:
            return patcher.model

        def network(self) -> torch.nn.Module:
            return self._patcher.model

        def compute_dtype(self) -> torch.dtype:
            return torch.float32

        def describe(self, name: str) -> dict[str, Any]:
            return {"tokens": len(self._patcher.model.table)}

    return Encoder


@pytest.fixture
def new(
    comfy_stand_in: StandIn, new_backend: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> Callable[..., Any]:
    from comfy_gpu_offload.comfyui.worker.modules import kinds

    monkeypatch.setattr(kinds, "KINDS", (*kinds.KINDS, new_kind()))
    comfy_stand_in.write("text_encoders", "words.safetensors", {"table": WEIGHTS})
    return new_backend


@pytest.fixture
def backend(new: Callable[..., Any]) -> Any:
    return new()


def encoded(backend: Any, tokens: Any = (2, 0), method: Any = "encode", **further: Any) -> Any:
    fingerprint = backend.describe(REF).description.fingerprint
    return backend.forward(ModuleCall(REF, fingerprint, (list(tokens),), method=method, **further)).result


def difference() -> PatchSet:
    entry = [0, "diff", [digest(CHANGE), False], None, None]
    return PatchSet(bytes(32), {"table": [entry]}, ((0.5, 1.0),), {digest(CHANGE): CHANGE})


def test_contributing_names_all_that_a_kind_has_and_every_file_is_a_kind(comfy_stand_in: StandIn) -> None:
    from comfy_gpu_offload.comfyui.worker.modules import kinds, runnable_module

    section = CONTRIBUTING.read_text(encoding="utf-8").partition("## Add a kind of module")[2].partition("\n## ")[0]
    interface = runnable_module.RunnableModule
    needed = {*interface.__abstractmethods__, "prefix", "files", "methods", "weight_prefix", "prepare"}
    assert {name for name in needed if f"`{name}`" not in section} == set()
    folder = Path(str(kinds.__file__)).parent
    others = {"__init__", "kinds", "runnable_module"}
    modules = {path.stem for path in folder.glob("*.py")} - others
    assert sorted(kind.__module__.rpartition(".")[2] for kind in kinds.KINDS) == sorted(modules)


def test_it_is_listed_in_its_folder(backend: Any) -> None:
    listing = backend.listing()
    # Clients of earlier releases are told of no such kinds.
    assert listing.models == ()
    assert [(entry.name, entry.folder) for entry in listing.modules] == [("words.safetensors", "text_encoders")]


def test_a_models_folder_has_its_subfolders(new: Callable[..., Any], tmp_path: Path) -> None:
    (tmp_path / "more" / "clip").mkdir(parents=True)
    (tmp_path / "more" / "clip" / "further.safetensors").touch()
    listing = new(models_dir=tmp_path / "more").listing()
    # The folder itself holds diffusion models, since it has no subfolder for those.
    assert [entry.name for entry in listing.models] == ["clip/further.safetensors"]
    assert [entry.name for entry in listing.modules] == ["further.safetensors", "words.safetensors"]


def test_it_is_described(backend: Any) -> None:
    described = backend.describe(REF)
    assert (described.description.ref, described.details) == (REF, {"tokens": 3})


def test_one_that_is_not_there_is_named(backend: Any) -> None:
    with pytest.raises(ModelNotFoundError, match=r"There is no text encoder 'none\.safetensors'"):
        backend.describe(ModelRef(name="encoder:none.safetensors"))


@pytest.mark.parametrize("further", [{"files": ("more.safetensors",)}, {"options": (("type", "flux"),)}])
def test_further_files_and_options_are_refused_by_a_kind_without_them(
    backend: Any, further: dict[str, Any]
) -> None:
    with pytest.raises(ModelRunError, match=r"The text encoder .* is loaded from one file and without options"):
        backend.describe(ModelRef(name=REF.name, **further))


def test_a_listed_method_is_called(backend: Any) -> None:
    assert torch.equal(encoded(backend), WEIGHTS[[2, 0]])
    assert torch.equal(encoded(backend, kwargs={"scale": 2.0}), 2 * WEIGHTS[[2, 0]])


@pytest.mark.parametrize("method", ["save", "forward", "__init__", None])
def test_an_unlisted_one_is_refused_by_name(backend: Any, method: Any) -> None:
    with pytest.raises(
        ModelRunError, match=f"The text encoder .* has no method '?{method}'? for calls .it has encode"
    ):
        encoded(backend, method=method)


def test_a_call_that_names_none_is_refused(backend: Any) -> None:
    with pytest.raises(ModelRunError, match="'forward'"):
        backend.forward(ModuleCall(REF, backend.describe(REF).description.fingerprint, ([1],)))


def test_arguments_are_checked(backend: Any) -> None:
    with pytest.raises(ModelRunError, match="The tokens are no list of numbers"):
        encoded(backend, tokens=["one"])


def test_it_cannot_be_sampled(backend: Any) -> None:
    job = SampleJob(
        request="r" * 16,
        client="c" * 16,
        reply_codec="raw",
        model=REF,
        fingerprint="f" * 16,
        sampler="euler",
        scheduler="simple",
        steps=1,
        cfg=1.0,
        denoise=1.0,
        seed=1,
    )
    with pytest.raises(ModelRunError, match="no diffusion model and cannot be sampled"):
        backend.sample(job, {}, lambda *_: None)


def test_it_is_patched_and_hooked(backend: Any) -> None:
    plain, patched = WEIGHTS[[2, 0]], (WEIGHTS + 0.5)[[2, 0]]
    assert torch.equal(encoded(backend, patches=difference()), patched)
    assert torch.equal(encoded(backend), plain)
    assert torch.equal(encoded(backend, hooks=HookSet(difference(), (), 0)), patched)
    assert torch.equal(encoded(backend), plain)


def test_it_leaves_memory_for_another_kind(comfy_stand_in: StandIn, new: Callable[..., Any]) -> None:
    comfy_stand_in.write_model("one.safetensors")
    backend = new(model_bytes=1)
    encoded(backend)
    loaded, _ = backend.pool.load(REF)
    backend.describe(ModelRef(name="one.safetensors"))
    assert backend.pool.residents.get(REF) is None
    assert loaded.patcher.model.current_weight_patches_uuid is None
    assert torch.equal(encoded(backend), WEIGHTS[[2, 0]])
