"""Weight patches and hooks of a remote model: their upload, and reports of those that do not fit."""
