"""The worker's side: from a request's frame to a reply's frame, with its queue, stores and HTTP server."""
