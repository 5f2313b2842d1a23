"""Floor 3, what moves: update maps and the trajectories that they draw."""
