"""Small model files, and files that only have the name of one."""

from __future__ import annotations

import json
import pickle
from typing import Any


def safetensors_file(size: int = 4096, *, seed: int = 0) -> bytes:
    """Return a safetensors file with one tensor of `size` bytes, which differ by `seed`."""
    header = {"weight": {"dtype": "U8", "shape": [size], "data_offsets": [0, size]}}
    pattern = bytes((seed + 7 * i) % 251 for i in range(251))
    return safetensors_of(header, (pattern * (size // 251 + 1))[:size])


def safetensors_of(header: dict[str, Any] | bytes, data: bytes) -> bytes:
    """Return a file with that header, whatever it says, in front of `data`."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + data


def gguf_file(version: int = 3, tensors: int = 1) -> bytes:
    """Return the beginning of a GGUF file, which is all that is looked at."""
    counts = b"".join(count.to_bytes(8, "little") for count in (tensors, 2))
    return b"GGUF" + version.to_bytes(4, "little") + counts + bytes(2000)


PICKLE = pickle.dumps({"state_dict": list(range(2000))}, protocol=2)
ZIP = b"PK\x03\x04" + bytes(4000)
PAGE = b"<!DOCTYPE html><html><body>Please log in</body></html>" + b" " * 2000
