"""The protocol between client and worker: frozen messages, their capabilities, and envelopes that become frames."""
