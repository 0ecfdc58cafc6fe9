"""A worker in the test's process whose arithmetic rounds differently from the client's."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from unittest import mock

import numpy as np

from comfy_gpu_offload.prediction import arithmetic
from comfy_gpu_offload.prediction.arithmetic import Column, Floats


@contextmanager
def other_arithmetic_elsewhere() -> Iterator[None]:
    """Have predictions on all threads but this one differ by up to a unit in bfloat16's last place.

    A client that calls from here and a `ThreadWorker` then differ as two machines would of which one rounds
    otherwise, only surely and at once.
    """
    here, predict = threading.get_ident(), arithmetic.predict

    def other(basis: Sequence[Column], coefficients: Floats) -> Floats:
        made = predict(basis, coefficients)
        return made if threading.get_ident() == here else made * np.float32(1 + 2**-8)

    with mock.patch.object(arithmetic, "predict", other):
        yield
