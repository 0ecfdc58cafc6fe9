"""Rented GPUs: the start of the worker there, and the end of what bills."""
