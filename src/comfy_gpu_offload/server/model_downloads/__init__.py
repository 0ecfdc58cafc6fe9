"""Downloads of models by the worker: from which hosts, by which sources, and the jobs that make them."""
