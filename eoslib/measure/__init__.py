"""Floor 2, what is measured: progress, curvature, noise, directions, certificates."""
