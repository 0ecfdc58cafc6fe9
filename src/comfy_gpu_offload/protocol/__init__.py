"""What is said between client and worker: frozen messages, and how they become frames."""
