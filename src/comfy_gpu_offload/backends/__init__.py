"""Backends hold a worker's models. Here are their common interface and what they share."""
