"""Calls of a VAE on the wire: its methods, and what each call says besides its arguments.

ComfyUI's four methods run at the worker as a whole, so that batches and tiles follow the worker's memory. What is
done to pictures before and after the network (`process_input`, `process_output`, the crop) stays with the client.
"""

from __future__ import annotations

from typing import Final

# The prefixes of the names of VAEs: of files of their own, and of checkpoints that have one in them.
PREFIX, CHECKPOINT_PREFIX = "vae:", "checkpoint_vae:"

DECODE, DECODE_TILED = "decode", "decode_tiled"
ENCODE, ENCODE_TILED = "encode", "encode_tiled"
NETWORK_DECODE, NETWORK_ENCODE = "network_decode", "network_encode"
"""The network's own methods, which packs call."""

CONTEXT: Final = "context"
"""The keyword argument of every call: what is in force at the client, a dict of the following."""
OUTPUT_DTYPE, ATTRIBUTES, EIGHT_BIT = "output_dtype", "attributes", "eight_bit"
"""The dtype of ComfyUI's results; numbers that are set on the network; whether 8-bit values are returned."""

TILES: Final = ("tile_x", "tile_y", "overlap", "tile_t", "overlap_t")
"""ComfyUI's arguments of tiled methods."""

NUMBERS: Final = frozenset({"decode_timestep", "decode_noise_scale"})
"""Attributes of networks that nodes set for the next call, each a number (LTXV)."""

VALUE, DTYPE, DREW_NOISE = "value", "dtype", "drew_noise"
"""The entries of a result: a tensor, the dtype that ComfyUI has it in, which may hold more than the tensor's own,
and whether the network drew random numbers of torch's own generator."""
