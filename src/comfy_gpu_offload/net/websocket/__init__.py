"""WebSockets (RFC 6455) that carry several exchanges of frames at a time, for client and worker."""
