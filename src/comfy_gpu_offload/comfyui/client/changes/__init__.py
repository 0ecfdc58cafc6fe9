"""Detection of changes that nodes and node packs make to a remote model, or to the code that it would run."""
