"""Transports: they move frames between client and worker and do not look into them."""
