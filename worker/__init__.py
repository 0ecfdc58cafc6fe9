"""The worker as it is deployed at RunPod: its entry points and settings, around the package's own worker."""
