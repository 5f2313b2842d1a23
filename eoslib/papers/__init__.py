"""Floor 4, what one paper needs and no other."""

# a stored run names its measurements by their classes
from eoslib.papers import stationarity

__all__ = ["stationarity"]
