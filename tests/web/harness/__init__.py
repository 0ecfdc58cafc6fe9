"""What the tests in a browser run on: Chromium, a ComfyUI whose `.env` can be changed, and its page."""
