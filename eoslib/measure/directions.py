"""Where θ is, and how far from elsewhere."""

from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor

from eoslib.measure.variables import Measurement, Variable


def distance(theta: Tensor, other: Tensor) -> float:
    """‖θ − θ′‖₂, both (p,)."""
    return (theta - other).norm().item()


@dataclass(frozen=True, kw_only=True)
class Position(Measurement):
    """θ itself: for few parameters, or few steps."""

    variables: ClassVar = {"theta": Variable("parameters θ", dims=("coordinate",))}

    def measure(self, point: Any, step_size: float) -> dict[str, list[float]]:
        """θ (p,)."""
        return {"theta": point.theta.tolist()}
