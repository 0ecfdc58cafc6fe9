"""The worker's side: handler, executor, blob store, HTTP app and the backends that own weights."""
