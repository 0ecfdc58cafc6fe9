"""What the tests against a real ComfyUI run on: checkouts, processes, a proxy that counts, an API client."""
