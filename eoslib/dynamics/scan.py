"""A process whose steps do not depend on one another: each looks at another place, or another step size."""

from typing import ClassVar

import torch

from eoslib.measure.variables import Stateful


class Scan(Stateful):
    """Carries only counts from step to step. A subclass has `variables`, and a `step()` that leaves what it found in
    `_row` and counts `t` and `gradients` on. steps: how many there are."""

    device = torch.device("cpu")
    kept: ClassVar = {}  # no θ
    carries = ("t", "gradients", "products")

    def __init__(self, steps: int):
        self.steps = steps
        self.t = self.gradients = self.products = 0
        self._row = {}

    @property
    def finished(self) -> bool:
        """Whether the last step is done."""
        return self.t >= self.steps

    def observe(self) -> dict[str, dict]:
        """The observables of the last step."""
        return {"step": self._row}
