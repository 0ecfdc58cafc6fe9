"""Prediction of a latent from earlier calls: arithmetic, coded residuals, and the history both ends keep."""
