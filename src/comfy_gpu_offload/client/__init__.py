"""The caller's side: a session with a worker, and models that live there."""
