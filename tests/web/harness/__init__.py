"""The equipment of tests in a browser: Chromium, a ComfyUI whose `.env` can be changed, and its page."""
