"""Other libraries' ways to store a tensor, for comparison with this package's codecs."""

from __future__ import annotations

import base64
import gzip
import importlib
import io
import json
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import torch

from comfy_gpu_offload.io.buffers import tensor_bytes
from comfy_gpu_offload.io.dtypes import NAMES


class Peer(NamedTuple):
    """A way to store a tensor and to restore its bytes; `decode` is None where that is not measured."""

    name: str
    encode: Callable[[torch.Tensor], Any]
    decode: Callable[[Any], Any] | None


def peers() -> tuple[list[Peer], list[str]]:
    """Return all that can be used here, and a line for each that cannot."""
    found = [
        Peer("gzip 6", lambda tensor: gzip.compress(tensor_bytes(tensor), 6), gzip.decompress),
        Peer("torch.save", _torch_save, None),  # a pickle, which is not read here either
        Peer("base64 in JSON", _json, lambda text: base64.b64decode(json.loads(text)["data"])),
    ]
    missing = []
    for name, module, make in (
        ("blosc2", "blosc2", _blosc2),
        ("pcodec", "pcodec", _pcodec),
        ("zipnn", "zipnn", _zipnn),
    ):
        try:
            found.append(make(importlib.import_module(module)))
        except (
            Exception
        ) as error:  # what a foreign library lacks or cannot load here is not this benchmark's affair
            missing.append(f"{name} is left out: {error}; `pip install {name}`")
    return found, missing


def _torch_save(tensor: torch.Tensor) -> bytes:
    buffer = io.BytesIO()
    torch.save(tensor, buffer)
    return buffer.getvalue()


def _json(tensor: torch.Tensor) -> bytes:
    data = base64.b64encode(tensor_bytes(tensor)).decode()
    return json.dumps({"dtype": NAMES[tensor.dtype], "shape": list(tensor.shape), "data": data}).encode()


def _blosc2(blosc2: Any) -> Peer:
    options = {"clevel": 1, "codec": blosc2.Codec.ZSTD, "filters": [blosc2.Filter.SHUFFLE], "nthreads": 1}
    return Peer(
        "blosc2 shuffle, zstd 1",
        lambda tensor: blosc2.compress2(tensor_bytes(tensor), typesize=tensor.element_size(), **options),
        lambda payload: blosc2.decompress2(payload, nthreads=1),
    )


def _pcodec(pcodec: Any) -> Peer:
    standalone = importlib.import_module("pcodec.standalone")
    config = pcodec.ChunkConfig(compression_level=8)
    kinds = {"BF16": "<u2", "F16": "<f2", "F32": "<f4", "F64": "<f8", "I32": "<i4", "I64": "<i8"}

    def encode(tensor: torch.Tensor) -> bytes | None:
        kind = kinds.get(NAMES[tensor.dtype])
        if kind is None or not tensor.numel():
            return None
        coded: bytes = standalone.simple_compress(np.frombuffer(tensor_bytes(tensor), kind), config)
        return coded

    return Peer("pcodec 8", encode, standalone.simple_decompress)


def _zipnn(zipnn: Any) -> Peer:
    dtypes = {"BF16": "bfloat16", "F16": "float16", "F32": "float32"}
    coders = {
        name: zipnn.ZipNN(input_format="byte", bytearray_dtype=dtype, threads=1) for name, dtype in dtypes.items()
    }

    def encode(tensor: torch.Tensor) -> bytes | None:
        coder = coders.get(NAMES[tensor.dtype])
        # It changes the buffer that it is given.
        return coder.compress(bytearray(tensor_bytes(tensor))) if coder is not None else None

    return Peer("zipnn", encode, coders["BF16"].decompress)
