"""Where θ is."""

from dataclasses import dataclass
from typing import Any, ClassVar

from eoslib.measure.variables import Measurement, Variable


@dataclass(frozen=True, kw_only=True)
class Position(Measurement):
    """θ itself: for few parameters, or few steps."""

    variables: ClassVar = {"theta": Variable("parameters θ", dims=("coordinate",))}

    def measure(self, point: Any, step_size: float) -> dict[str, list[float]]:
        """θ (p,)."""
        return {"theta": point.theta.tolist()}
