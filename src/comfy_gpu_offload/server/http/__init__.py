"""The worker's HTTP server: requests, replies, connections, and who is let in."""
