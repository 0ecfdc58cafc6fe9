"""Samplers from elsewhere."""
