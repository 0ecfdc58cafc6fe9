"""The tensor dtypes that can be sent: those that safetensors has a name for.

Names are the ones of the safetensors format (https://github.com/huggingface/safetensors, `Dtype`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType

import torch

_NAMES: dict[str, str] = {
    "F64": "float64",
    "F32": "float32",
    "F16": "float16",
    "BF16": "bfloat16",
    "I64": "int64",
    "I32": "int32",
    "I16": "int16",
    "I8": "int8",
    "U64": "uint64",
    "U32": "uint32",
    "U16": "uint16",
    "U8": "uint8",
    "BOOL": "bool",
    "C64": "complex64",
    "F8_E4M3": "float8_e4m3fn",
    "F8_E4M3FNUZ": "float8_e4m3fnuz",
    "F8_E5M2": "float8_e5m2",
    "F8_E5M2FNUZ": "float8_e5m2fnuz",
    "F8_E8M0": "float8_e8m0fnu",
    "F4": "float4_e2m1fn_x2",
}

# Older torch releases lack the newest narrow floats; such a tensor cannot exist there either.
DTYPES: Mapping[str, torch.dtype] = MappingProxyType(
    {name: getattr(torch, attribute) for name, attribute in _NAMES.items() if hasattr(torch, attribute)}
)
NAMES: Mapping[torch.dtype, str] = MappingProxyType({dtype: name for name, dtype in DTYPES.items()})

# Every dtype of torch by the name that it prints, for trees that name a dtype without a tensor of it.
TORCH_DTYPES: Mapping[str, torch.dtype] = MappingProxyType(
    {str(value).removeprefix("torch."): value for value in vars(torch).values() if isinstance(value, torch.dtype)}
)


def stored_shape(name: str, shape: Sequence[int]) -> list[int]:
    """Return the shape as a safetensors document states it: of F4 it counts elements, where torch counts pairs."""
    if name == "F4":
        return [*shape[:-1], shape[-1] * 2] if shape else [2]
    return list(shape)
