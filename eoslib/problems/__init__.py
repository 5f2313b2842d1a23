"""Floor 1, what is minimised: landscapes, losses, networks, data sets, and f over one flat θ."""
