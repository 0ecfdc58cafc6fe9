"""The common start of both entry points: log, exit status and backend."""

from __future__ import annotations

import logging
from collections.abc import Callable

from comfy_gpu_offload.backend_factory import BackendOptions, make_backend
from comfy_gpu_offload.backends.base import Backend, BackendError
from comfy_gpu_offload.cli.exit_status import exit_status as of_command
from comfy_gpu_offload.config.settings import PREFIX, Settings
from comfy_gpu_offload.errors import ConfigError
from comfy_gpu_offload.protocol.messages import ModelRef

from .settings import WorkerSettings

logger = logging.getLogger(__name__)


def exit_status(run: Callable[[], None]) -> int:
    """Set up the log and run; return 0, 1 for a failure or 2 for a wrong setting, as the command line does."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")

    def ended() -> int:
        run()
        return 0

    return of_command(ended)


def ready_backend(worker: WorkerSettings, settings: Settings) -> Backend:
    """Return the backend, with the model to preload in memory.

    Raises:
        ConfigError: ComfyUI does not start, or the model to preload cannot be loaded.
    """
    backend = make_backend(
        BackendOptions(
            name=worker.backend, comfyui=worker.comfyui, models=worker.models, model_bytes=settings.model_bytes
        )
    )
    if worker.preload is not None:
        logger.info("loading %s", worker.preload)
        try:
            backend.describe(ModelRef(name=worker.preload))
        except BackendError as error:
            raise ConfigError(f"{PREFIX}PRELOAD={worker.preload}: {error}") from error
    return backend
