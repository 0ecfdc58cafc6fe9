"""The encoding of a session's tensors: which codec, whether predicted, which by digest, and the link it goes by."""
