"""The diffusers backend: models of the diffusers library, and the bundled digits model."""
