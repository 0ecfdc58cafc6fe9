"""An example of every message, with all of its fields set, by which the tests of the protocol go.

A new message gets an example here; `test_messages.py` fails without one.
"""

from __future__ import annotations

from comfy_gpu_offload.protocol.messages import (
    Autocast,
    Cancel,
    Cancelled,
    Coded,
    Define,
    DerivedStep,
    DerivedTensor,
    Fault,
    FaultCode,
    Fetch,
    Follow,
    Forward,
    Hello,
    HookRef,
    Kept,
    Message,
    MessageT,
    ModelDescription,
    ModelEntry,
    ModelRef,
    PatchRef,
    Prediction,
    Probe,
    Probed,
    Progress,
    ReplyPart,
    Result,
    SampleJob,
    Skipped,
    SkippedEntry,
    Store,
    Stored,
    Welcome,
    WholeTensor,
    WorkerLimits,
    WorkerTimings,
)
from comfy_gpu_offload.protocol.messages.model_downloads import (
    DownloadModel,
    FollowDownload,
    ModelProgress,
    StopDownload,
)
from comfy_gpu_offload.protocol.messages.model_push import Pushed, PushModel, PushPart
from comfy_gpu_offload.protocol.messages.model_removal import Removed, RemoveModel

REF = ModelRef(name="model.safetensors")
MODULE = ModelRef(name="encoder:a.safetensors", files=("b.safetensors",), options=(("type", "flux"),))
REQUEST, CLIENT, INSTANCE, FINGERPRINT = "r" * 8, "c" * 8, "i" * 8, "f" * 8
PATCHES = PatchRef(template=bytes(32), strengths=((0.5, 1.0), (0.25, 1.0)))
CODED = Coded(
    dtype="BF16",
    shape=(1, 4, 8, 8),
    kept=b"\x01",
    coefficients=(bytes(4),),
    sizes=(17,),
    digest=bytes(16),
    strides=(256, 1, 32, 4),
)
WHOLE = WholeTensor(digest=bytes(32), dtype="float16", shape=(2, 3), parts=(bytes(32),), strides=(1, 2))
DERIVED = DerivedTensor(
    sources=(bytes(32),),
    steps=(
        DerivedStep(operation="cast", inputs=(0,), dtype="bfloat16"),
        DerivedStep(operation="repeat", inputs=(1,), numbers=(2, 1, 1)),
    ),
)

_ALL: tuple[Message, ...] = (
    Hello(
        client=CLIENT,
        package="1",
        torch="2",
        comfyui="3",
        codecs=("raw",),
        capabilities=("strides",),
        model=REF,
        request=REQUEST,
    ),
    Welcome(
        instance=INSTANCE,
        package="1",
        torch="2",
        comfyui=None,
        backend="b",
        device="d",
        codecs=("raw", "zstd"),
        capabilities=("predicted",),
        limits=WorkerLimits(frame_bytes=1, store_bytes=0),
        models=(ModelEntry(name="m", folder="f", size_bytes=3, sha256=bytes(32), source="push"),),
        skipped=Skipped(count=1, entries=(SkippedEntry(name="n", reason="r"),)),
        folders=("/srv/models",),
        model=ModelDescription(ref=REF, fingerprint=FINGERPRINT, compute_dtype="bfloat16", warnings=("w",)),
        request=REQUEST,
    ),
    Forward(
        request=REQUEST,
        client=CLIENT,
        model=MODULE,
        fingerprint=FINGERPRINT,
        reply_codec="raw",
        patches=PATCHES,
        hooks=HookRef(patches=PATCHES, single=(1,), group=0),
        prediction=Prediction(history="h" * 8, call=1, parts=2, coded=CODED),
        reply_strides=True,
        autocast=Autocast(dtype="float16", caches=True, gradients="off"),
        method="encode",
        most_reply_bytes=4096,
        keep_result="digests",
        derived=(DERIVED,),
    ),
    Result(request=REQUEST, instance=INSTANCE, timings=WorkerTimings(compute_s=0.5), prediction=CODED),
    SampleJob(
        request=REQUEST,
        client=CLIENT,
        model=REF,
        fingerprint=FINGERPRINT,
        reply_codec="raw",
        sampler="euler",
        scheduler="normal",
        seed=2**64 - 1,
        steps=20,
        cfg=7.5,
        denoise=0.5,
        start_step=1,
        last_step=19,
        patches=PATCHES,
        reply_strides=True,
        keep_result="data",
        derived=(DERIVED,),
    ),
    Follow(request=REQUEST, after=3),
    Progress(request=REQUEST, step=3, of=20, waiting="behind 1 other"),
    Store(client=CLIENT, whole=WHOLE, request=REQUEST),
    Define(client=CLIENT, template=bytes(32), request=REQUEST),
    Stored(instance=INSTANCE, request=REQUEST),
    Probe(client=CLIENT, reply_bytes=1000, request=REQUEST),
    Probed(worker_s=0.5, request=REQUEST),
    Kept(request=REQUEST, instance=INSTANCE, size_bytes=10_000_000),
    Fetch(request=REQUEST, call=CLIENT, begin=4096, size_bytes=4096),
    ReplyPart(request=REQUEST, instance=INSTANCE),
    PushModel(request=REQUEST, folder="vae", name="a.safetensors", sha256=bytes(32), size_bytes=4096, restart=True),
    PushPart(request=REQUEST, folder="vae", name="a.safetensors", sha256=bytes(32), begin=1024),
    Pushed(request=REQUEST, instance=INSTANCE, received=1024, received_sha256=bytes(32), is_whole=True),
    DownloadModel(
        request=REQUEST,
        client=CLIENT,
        source="hf:org/name/x.safetensors",
        folder="vae",
        name="x.safetensors",
        sha256="ab" * 32,
        hf_token="h",
        civitai_token="c",
    ),
    FollowDownload(request=REQUEST, client=CLIENT, job="j" * 8),
    StopDownload(request=REQUEST, client=CLIENT, job="j" * 8),
    ModelProgress(
        request=REQUEST,
        job="j" * 8,
        state="receiving",
        received=3,
        size_bytes=5,
        folder="vae",
        name="x.safetensors",
        waits_for="w",
        sha256="ab" * 32,
        source="s",
    ),
    RemoveModel(request=REQUEST, client=CLIENT, folder="vae", name="a.safetensors"),
    Removed(request=REQUEST, instance=INSTANCE),
    Cancel(request=REQUEST),
    Cancelled(request=REQUEST, state="queued"),
    Fault(
        code=FaultCode.MISSING_TENSORS,
        message="m",
        retryable=True,
        missing=(bytes(32),),
        traceback="t",
        request=REQUEST,
    ),
)
EXAMPLES: dict[type[Message], Message] = {type(message): message for message in _ALL}


def example_of(kind: type[MessageT]) -> MessageT:
    """Return the example of a message."""
    found = EXAMPLES[kind]
    assert isinstance(found, kind)
    return found
