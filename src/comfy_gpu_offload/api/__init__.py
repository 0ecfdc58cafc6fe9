"""RunPod's queue API over HTTP, typed. Knows of jobs, and nothing of tensors."""
