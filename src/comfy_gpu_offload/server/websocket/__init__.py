"""The worker's end of a WebSocket: many exchanges at a time on one connection."""
