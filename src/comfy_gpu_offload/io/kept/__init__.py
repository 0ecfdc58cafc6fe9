"""Tensors whose data is kept at a worker: derivations by exact operations, and tensors that stand for them."""
