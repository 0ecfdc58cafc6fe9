"""The choice of how a session's tensors are encoded: codec, prediction, digests, and the measured link."""
