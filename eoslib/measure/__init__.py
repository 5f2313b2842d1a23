"""Floor 2, what is measured: progress, curvature, directions, certificates."""

from eoslib.measure import curvature, directions, progress  # a stored run names its measurements by their classes

__all__ = ["curvature", "directions", "progress"]
