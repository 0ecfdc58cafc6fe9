"""Socket code that several rooms share: socket options, and blocking calls that can be interrupted."""
