"""Samplers by Katherine Crowson."""
