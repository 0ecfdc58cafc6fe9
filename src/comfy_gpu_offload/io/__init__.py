"""Tensors to bytes and back, with no sockets: dtypes, tree, digests, codecs, frame."""
