"""The rooms that own weights. Each is imported only when a worker is started with it."""
