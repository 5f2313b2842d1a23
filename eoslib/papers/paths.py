"""Several trajectories from one point, seen in the plane of their first principal components (Mohtashami et al. 2023,
figure 7)."""

from collections.abc import Mapping, Sequence
from typing import ClassVar

import torch
from torch import Tensor

from eoslib.measure.variables import Stateful, Variable

BLOCK = 2**20  # coordinates that are multiplied at once, in float64


def principal_components(displacements: Tensor, k: int = 2) -> tuple[Tensor, Tensor]:
    """The first k principal components of points d_i, the rows of `displacements` (m, p), from their Gram matrix, as
    p is much larger than m. Returns ⟨d_i, w_j⟩ (m, k) along the unit directions w_j, whose signs are such that the
    projection largest in size is positive, and the share of the variance along each (k,); both float64. Raises
    ValueError unless 1 ≤ k < m."""
    m = len(displacements)
    if not 1 <= k < m:
        raise ValueError(f"of {m} points there are 1 to {m - 1} principal components, not {k}")
    gram = sum(part @ part.T for part in (block.double() for block in displacements.split(BLOCK, dim=1)))
    centring = torch.eye(m, dtype=gram.dtype, device=gram.device) - 1 / m
    values, vectors = torch.linalg.eigh(centring @ gram @ centring)  # ascending
    values, vectors = values.flip(0).clamp(min=0), vectors.flip(1)[:, :k]
    projections = gram @ vectors / values[:k].sqrt()  # w_j = Σ_i u_ij (d_i − d̄) / √λ_j, and Σ_i u_ij = 0
    signs = projections.gather(0, projections.abs().argmax(0, keepdim=True)).sign()
    return signs * projections, values[:k] / values.sum()


class Paths(Stateful):
    """A process of one step. paths: of each trajectory, step → θ (p,); the first θ of the first is the origin."""

    steps: ClassVar[int] = 1
    carries = ("t",)
    variables: ClassVar = {
        "path": Variable("number of the trajectory", dims=("point",), dtype="int64"),
        "at": Variable("iteration t of its own", dims=("point",), dtype="int64"),
        "projection": Variable("θ_t − θ₀ along a principal component", dims=("point", "component")),
        "distance": Variable("distance ‖θ_t − θ₀‖", dims=("point",)),
        "explained": Variable("share of the variance along a principal component", dims=("component",)),
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
        """Project all points."""
        points = torch.stack([theta for path in self.paths for theta in path.values()])
        displacements = points - points[0]
        projections, explained = principal_components(displacements)
        numbers = {
            "path": [i for i, path in enumerate(self.paths) for _ in path],
            "at": [t for path in self.paths for t in path],
            "projection": projections.tolist(), "explained": explained.tolist(),
            "distance": displacements.double().norm(dim=1).tolist(),
        }  # fmt: skip
        self.rows = {"step": numbers}
        self.t += 1

    def observe(self) -> dict[str, dict]:
        """The projections."""
        return self.rows
