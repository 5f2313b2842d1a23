"""Floor 2, what is measured: progress, noise, curvature, directions, certificates."""

# a stored run names its measurements by their classes
from eoslib.measure import curvature, directions, noise, progress, stochastic_curvature

__all__ = ["curvature", "directions", "noise", "progress", "stochastic_curvature"]
