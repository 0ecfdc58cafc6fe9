"""Moves frames between client and worker, blind to what is in them."""
