"""Where θ is, and what lies between there and the start."""

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from eoslib.measure.variables import Measurement, Stateful, Variable


@dataclass(frozen=True, kw_only=True)
class Position(Measurement):
    """θ itself: for few parameters, or few steps."""

    variables: ClassVar = {"theta": Variable("parameters θ", dims=("coordinate",))}

    def measure(self, point: Any, step_size: float) -> dict[str, list[float]]:
        """θ (p,)."""
        return {"theta": point.theta.tolist()}


@dataclass(frozen=True, kw_only=True)
class Line(Measurement):
    """f at so many evenly spaced `points` of the line from the first iterate θ₀ to θ_t, both ends among them, as in
    Mohtashami et al. 2023, figure 13; and the line's length."""

    points: int = 30
    variables: ClassVar = {
        "line_loss": Variable("training loss on the line from θ₀ to θ_t", dims=("fraction",)),
        "distance": Variable("distance ‖θ_t − θ₀‖"),
    }

    def gradients(self, n: int) -> float:
        return self.points / 3  # a forward pass is the third part of a gradient

    def begin(self, problem: Any, theta: Tensor) -> "_Line":
        return _Line(self.points, theta)


class _Line(Stateful):
    """Its origin is no state: a run that goes on begins with the same θ₀ again."""

    def __init__(self, points: int, origin: Tensor):
        self.points, self.origin = points, origin

    def measure(self, point: Any, step_size: float) -> dict[str, Tensor | list[float]]:
        line = point.theta - self.origin
        places = torch.linspace(0, 1, self.points, dtype=torch.float64).tolist()
        values = torch.stack([point.objective.value(self.origin + s * line) for s in places])
        return {"line_loss": values.tolist(), "distance": line.norm()}
