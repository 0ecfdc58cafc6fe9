"""Real parts for tests: a backend whose models do as they are told, a worker on a socket, a proxy that breaks."""
