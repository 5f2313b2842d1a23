"""Where θ is, and how far from elsewhere."""

from torch import Tensor


def distance(theta: Tensor, other: Tensor) -> float:
    """‖θ − θ′‖₂, both (p,)."""
    return (theta - other).norm().item()


class Position:
    """Measures θ itself, at the steps divisible by `every`."""

    def __init__(self, every: int = 1):
        self.every = every

    def measure(self, point, step_size: float) -> dict[str, list[float]]:
        """θ at an `objective.Expansion`."""
        return {"theta": point.theta.tolist()}

    def state(self) -> dict:
        """Nothing carries over."""
        return {}

    def load(self, state: dict) -> None:
        """Nothing to load."""
