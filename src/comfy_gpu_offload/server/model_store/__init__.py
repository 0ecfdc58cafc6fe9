"""The model files of a worker that clients bring: on their way in, checked, named, and where they came from."""
