"""Sampling runs of Remote Sampler: where the loop runs, the job that is sent, and its progress here."""
