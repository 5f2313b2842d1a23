"""Several trajectories from one point, seen in the plane of their first principal components (Mohtashami et al. 2023,
figure 7). All that such pictures need is the Gram matrix of the displacements, however many parameters there are."""

from collections.abc import Mapping, Sequence
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from eoslib.measure.variables import Stateful, Variable

BLOCK = 2**20  # coordinates that are multiplied at once, in float64


def principal_components(gram: np.ndarray, k: int = 2) -> tuple[np.ndarray, np.ndarray]:
    """The first k principal components of points d_i (p,) whose inner products are `gram` (m, m). Returns ⟨d_i, w_j⟩
    (m, k) along the unit directions w_j, the sign of each such that the largest in size is positive, and the shares of
    the variance along them (k,). Raises ValueError unless 1 ≤ k < m."""
    m = len(gram)
    if not 1 <= k < m:
        raise ValueError(f"of {m} points there are 1 to {m - 1} principal components, not {k}")
    centring = np.eye(m) - 1 / m
    values, vectors = np.linalg.eigh(centring @ gram @ centring)  # ascending
    values, vectors = values[::-1].clip(min=0), vectors[:, ::-1][:, :k]
    projections = gram @ vectors / np.sqrt(values[:k])  # w_j = Σ_i u_ij (d_i − d̄) / √λ_j, and Σ_i u_ij = 0
    largest = projections[abs(projections).argmax(0), range(k)]
    return np.sign(largest) * projections, values[:k] / values.sum()


class Displacements(Stateful):
    """A process of one step. paths: of each trajectory, t → θ_t (p,); the first of all is the origin θ₀."""

    steps: ClassVar[int] = 1
    carries = ("t",)
    variables: ClassVar = {
        "path": Variable("number of the trajectory", dims=("point",), dtype="int64"),
        "at": Variable("iteration t of its own", dims=("point",), dtype="int64"),
        "gram": Variable("inner products of the displacements θ_t − θ₀", dims=("point", "other")),
    }

    def __init__(self, paths: Sequence[Mapping[int, Tensor]]):
        self.paths, self.t, self.kept = paths, 0, {}
        self.device = next(iter(paths[0].values())).device
        self.rows: dict[str, dict] = {}

    @property
    def finished(self) -> bool:
        """Whether the step was taken."""
        return self.t >= self.steps

    def step(self) -> None:
        """Multiply all with all."""
        points = torch.stack([theta for path in self.paths for theta in path.values()])
        gram = sum(d @ d.T for d in ((b - b[0]).double() for b in points.split(BLOCK, dim=1)))
        path = [i for i, path in enumerate(self.paths) for _ in path]
        self.rows = {"step": {"path": path, "at": [t for path in self.paths for t in path], "gram": gram.tolist()}}
        self.t += 1

    def observe(self) -> dict[str, dict]:
        """What was multiplied."""
        return self.rows
