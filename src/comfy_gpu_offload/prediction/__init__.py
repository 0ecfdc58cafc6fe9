"""Prediction of latents from earlier calls of a run: arithmetic, coded residuals, histories at both ends."""
