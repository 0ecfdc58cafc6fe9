"""Settings from the environment and .env, read at the edges and passed inward as frozen values."""
