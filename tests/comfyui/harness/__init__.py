"""The ground that tests against a real ComfyUI stand on: checkouts, processes, a counting proxy, an API client."""
