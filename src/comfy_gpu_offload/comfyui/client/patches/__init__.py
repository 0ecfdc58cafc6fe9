"""Weight patches and hooks of a remote model: what is uploaded of them, and what does not fit."""
