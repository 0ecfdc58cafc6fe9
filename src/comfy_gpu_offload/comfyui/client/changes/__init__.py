"""Detection of what nodes and node packs change of a remote model, and of the code it would run."""
