"""The parts of one worker, which the functions that answer requests share."""

from __future__ import annotations

import secrets
from dataclasses import dataclass, field

from ..backends.base import Backend
from ..io.frame import FrameLimits
from ..protocol.messages import WorkerLimits
from .abandoned_runs import AbandonedRuns, Grace
from .answers.forward import ForwardCalls
from .answers.sampling import SamplingRuns
from .blob_folder import BlobFolder
from .blob_store import BlobStore
from .executor import Executor, QueueLimits
from .kept_results import KeptResults
from .lifetime import Activity
from .model_downloads.downloads import DownloadOptions, Downloads
from .model_store.model_pushes import ModelPushes
from .tensor_lookup import TensorLookup
from .uploads import Uploads


@dataclass(frozen=True)
class HandlerOptions:
    """The settings of a worker's handler.

    Attributes:
        limits: of frames.
        store_bytes: size of the tensors that are kept in memory by digest, together.
        uploads: the folder in which uploads are kept as well, or None.
        queue: limits of the calls that wait for the device.
        grace: for how long a run continues that nobody follows.
        activity: the record of the use that is made of the worker.
        takes_models: whether clients may bring model files to the worker, and remove those that they brought.
        downloads: the settings for models that the worker downloads.
    """

    limits: FrameLimits = field(default_factory=FrameLimits)
    store_bytes: int = 2 * 1024**3
    uploads: BlobFolder | None = None
    queue: QueueLimits = field(default_factory=QueueLimits)
    grace: Grace = field(default_factory=Grace)
    activity: Activity = field(default_factory=Activity)
    takes_models: bool = False
    downloads: DownloadOptions = field(default_factory=DownloadOptions)


class WorkerParts:
    """A worker's backend, the queue for it, and everything that is kept between requests. All are thread-safe.

    Attributes:
        instance: random name of this start of the worker: clients see by it that a worker has been restarted.
        limits: that clients are told.
        uploads: tensors and weight patches that clients uploaded.
        calls: forward calls, their last replies and their prediction histories.
        runs: sampling runs, under way and finished.
        activity: the record of use, by which an idle worker leaves.
        takes_models: as in `HandlerOptions`.
        pushes: model files that clients are sending.
        downloads: of models, which clients ask for.
    """

    def __init__(self, backend: Backend, options: HandlerOptions) -> None:
        self.backend = backend
        self.instance = secrets.token_hex(16)
        self.activity = options.activity
        self.executor = Executor(backend.clear_interrupt, options.queue)
        store = BlobStore(options.store_bytes)
        self.limits = WorkerLimits(frame_bytes=options.limits.frame_bytes, store_bytes=store.budget_bytes)
        tensors = TensorLookup(store, options.limits.frame_bytes)
        self.uploads = Uploads(store, options.uploads)
        kept = KeptResults(store)
        self.calls = ForwardCalls(backend, self.executor, tensors, self.uploads, self.instance, kept=kept)
        abandoned = AbandonedRuns(self.executor, backend.interrupt, options.grace)
        self.runs = SamplingRuns(
            backend,
            self.executor,
            tensors,
            self.uploads,
            self.instance,
            kept=kept,
            abandoned=abandoned,
            activity=self.activity,
        )
        self.takes_models = options.takes_models
        self.pushes = ModelPushes(backend.model_folders)
        self.downloads = Downloads(options.downloads, backend.model_folders, self.activity)
