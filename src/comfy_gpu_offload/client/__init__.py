"""The caller's side: a session with a worker, and the models that live there."""
