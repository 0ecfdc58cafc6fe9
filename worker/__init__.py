"""What ships to a GPU: the entries that RunPod starts, around the package's own worker. README.md says how."""
