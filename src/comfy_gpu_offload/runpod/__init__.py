"""A typed client of RunPod's queue API. It knows of jobs, and nothing of tensors."""
