"""The largest algebraic eigenvalues of the Hessian, tracked along a trajectory.

Between two steps of gradient descent the top eigenvectors hardly turn, so the search starts from known ones:
Rayleigh–Ritz on their span, enlarged by the worst residual until all are small. From one vector this is Lanczos's
method (the residuals span the Krylov space), from several the block Davidson method without preconditioner. A warm
start cannot see an eigenvector that its space is orthogonal to, hence the spare vector and the cold audits.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch
from torch import Tensor

from eoslib.measure import host
from eoslib.measure.variables import Measurement, Stateful, Variable

MAX_BASIS = 32  # vectors kept before the basis is restarted from its best Ritz vectors
FOUND = 1e-3  # to which an eigenvalue is found
COSINE = {"tolerance": 0.01, "absolute": True}  # the angle by which an eigenvector may be off


@dataclass(frozen=True)
class Spectrum:
    """Top eigenpairs: values (k,) descending, vectors (k, p) orthonormal rows, residuals ‖Hu − λu‖ (k,), the products
    they cost, and whether every residual met the tolerance. `basis` (m, p) holds the vectors and, if the search had
    more than k directions, the next Ritz vector. Values and residuals lie on the CPU, where the search decides."""

    values: Tensor
    vectors: Tensor
    residuals: Tensor
    products: int
    converged: bool
    basis: Tensor


def top_eigenpairs(
    hvp: Callable[[Tensor], Tensor], start: Tensor, k: int = 1,
    tolerance: float = 3e-3, max_products: int = 300, eager: int | None = None,
) -> Spectrum:  # fmt: skip
    """The k largest algebraic eigenvalues of a symmetric operator, from the rows of `start`.

    hvp: v (p,) ↦ Hv (p,). start: (m, p), m ≥ 1, any independent rows; random for a cold start, earlier eigenvectors for
    a warm one. eager: how many are used in any case (default all), the others only if those do not suffice. Every row
    costs one product. Stops with k residuals ≤ `tolerance`·|λ₁|, or at `max_products` with `converged` False.
    """
    p = start.shape[1]
    if not 1 <= k <= p:
        raise ValueError(f"k = {k} eigenpairs were asked of an operator of size {p}")
    rows = images = start[:0]  # orthonormal basis Q, and HQ
    queue = list(start)
    needed = min(p, max(k, len(start) if eager is None else eager))
    products = 0
    while True:
        q = _orthonormalised(queue.pop(0), rows)
        if q is None:  # nothing new in it; a residual that is lost in rounding ends in a new direction
            queue = queue or [random_rows(1, start, products)[0]]
            continue
        rows = torch.cat([rows, q[None]])
        images = torch.cat([images, hvp(q)[None]])
        products += 1
        if queue and len(rows) < needed:
            continue
        projected = (rows @ images.T).double().cpu()  # a device takes longer for a problem of this size
        if not projected.isfinite().all():  # f overflowed here: the spectrum does not exist, the run goes on
            nothing = torch.full((k,), torch.nan, dtype=start.dtype)
            return Spectrum(nothing, torch.full_like(start[:k], torch.nan), nothing, products, False, start)
        values, mixing = torch.linalg.eigh((projected + projected.T) / 2)
        values, mixing = values.flip(0), mixing.flip(1).T.to(rows)  # descending; rows of mixing are Ritz pairs
        ritz, ritz_images = mixing[: k + 1] @ rows, mixing[: k + 1] @ images
        residual_vectors = ritz_images[:k] - values[:k, None].to(ritz) * ritz[:k]
        residuals = residual_vectors.norm(dim=1).cpu()
        converged = len(rows) == p or (len(rows) >= k and bool((residuals <= tolerance * values[0].abs()).all()))
        if converged or products >= max_products:
            return Spectrum(values[:k].to(ritz.dtype), ritz[:k], residuals, products, converged, ritz)
        if len(rows) >= MAX_BASIS + k:  # thick restart: keep the best half, which needs no new products
            keep = mixing[: MAX_BASIS // 2 + k]
            rows, images = keep @ rows, keep @ images
        queue = queue or [residual_vectors[residuals.argmax()]]


def _orthonormalised(v: Tensor, rows: Tensor) -> Tensor | None:
    """v made orthogonal to the orthonormal rows and of length 1, or None if nothing of it is left."""
    length = v.norm()
    for _ in range(2):  # once is not enough in float32
        v = v - rows.T @ (rows @ v)
    left = v.norm()
    return v / left if left > 1e-5 * length else None


def random_rows(count: int, like: Tensor, seed: int) -> Tensor:
    """Standard normal rows (count, p), the same on every device."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(count, like.shape[-1], generator=generator, dtype=torch.float64).to(like)


class SharpnessTracker(Stateful):
    """Measures the k top eigenpairs whenever the trajectory asks, starting from those of earlier measurements.

    At the edge of stability the iterates alternate, and so do the eigenvectors: those of the measurement before last
    are the better start, and often enough alone. Next come the last ones, and the spare (the next eigenvector known).

    tolerance: on the residuals, relative to λ₁. audit_every: at each so many measurements a cold search is run
    beside the warm one, and its result taken if it found a larger eigenvalue; `missed` counts those. top: λ₁'s name.
    """

    SPARE_EVERY = 4  # by each so many measurements the spare is used in any case
    carries = ("measurements", "missed", "older", "newer", "spare")

    def __init__(self, k: int = 1, tolerance: float = 3e-3, audit_every: int = 50, seed: int = 0, top="sharpness"):
        self.k, self.tolerance, self.audit_every, self.seed, self.top = k, tolerance, audit_every, seed, top
        self.measurements = self.missed = 0
        self.older: Tensor | None = None  # eigenvectors (k, p) of the measurement before last
        self.newer: Tensor | None = None  # of the last one
        self.spare: Tensor | None = None  # (≤ 1, p)

    def track(self, hvp: Callable[[Tensor], Tensor], like: Tensor) -> Spectrum:
        """The spectrum at the next point of the trajectory; `like` gives size, type and device."""
        found = []
        if self.measurements % self.audit_every == 0:
            cold = random_rows(self.k, like, self.seed + self.measurements)
            found.append(top_eigenpairs(hvp, cold, self.k, self.tolerance))
        if self.newer is not None:
            spare_due = self.measurements % self.SPARE_EVERY == 0
            older = self.newer if self.older is None else self.older
            order = [older, self.spare, self.newer] if spare_due else [older, self.newer, self.spare]
            warm = torch.cat([vectors.to(like) for vectors in order])  # a resumed state lies on the CPU
            found.append(top_eigenpairs(hvp, warm, self.k, self.tolerance, eager=self.k + spare_due))
        last = found[-1].values[0]
        better = bool(found[0].values[0] > last + self.tolerance * last.abs())
        spectrum = replace(found[0 if better else -1], products=sum(s.products for s in found))
        self.missed += better
        self.measurements += 1
        # Vectors that missed something would find only themselves again.
        self.older, self.newer = None if better else self.newer, spectrum.vectors
        if len(spectrum.basis) > self.k or self.spare is None:
            self.spare = spectrum.basis[self.k : self.k + 1]
        return spectrum

    def at(self, point) -> Spectrum:
        """The spectrum at an `objective.Expansion`, the next point of the trajectory. If it knows a `Restriction`, the
        search takes place in its subspace, and ∇²f itself only multiplies what was found, until the residuals are small
        there too. `products` counts the latter."""
        inside = point.restricted()
        if inside is None:
            return self.track(point.hvp, point.gradient)
        found = self.track(inside.hvp, inside.gradient)
        return top_eigenpairs(point.hvp, inside.lift(found.vectors), self.k, self.tolerance)

    def measure(self, point, step_size: float) -> dict[str, float | list[float]]:
        """The observables that `Sharpness` labels, at an `objective.Expansion`; only if k > 1 all eigenvalues, and the
        alignment with the span of those uᵢ whose λᵢ ≥ 2/η."""
        spectrum = self.at(point)
        row = {
            self.top: spectrum.values[0].item(),
            "sharpness_residual": (spectrum.residuals[0] / spectrum.values[0].abs()).item(),
            "alignment": (spectrum.vectors[0] @ point.gradient).abs() / point.gradient.norm(),
            "products": float(spectrum.products),
        }
        if self.k > 1:
            unstable = spectrum.vectors[spectrum.values >= 2 / step_size]
            row["eigenvalues"] = spectrum.values.tolist()
            row["unstable_alignment"] = (unstable @ point.gradient).norm() / point.gradient.norm()
        return host.numbers(row)


@dataclass(frozen=True, kw_only=True)
class Sharpness(Measurement):
    """The `eigenvalues` largest eigenvalues of the Hessian, see `SharpnessTracker`."""

    eigenvalues: int = 1
    tolerance: float = 3e-3
    products: ClassVar[bool] = True
    variables: ClassVar = {
        "sharpness": Variable("sharpness λ_max(∇²f(θ))", tolerance=FOUND),
        "sharpness_residual": Variable("residual ‖Hu − λu‖ / |λ| of the top eigenpair", tolerance=math.inf),
        "alignment": Variable("alignment |⟨∇f, u₁⟩| / ‖∇f‖ of the gradient with the top eigenvector", **COSINE),
        "products": Variable("Hessian-vector products spent", tolerance=math.inf),
        "eigenvalues": Variable("top Hessian eigenvalues", dims=("eigenvalue",), tolerance=FOUND),
        "unstable_alignment": Variable("alignment of the gradient with those of eigenvalues ≥ 2/η", **COSINE),
    }

    def gradients(self, n: int) -> float:
        return 5.0 * self.eigenvalues  # a product takes little more than a gradient, and each is found by a few

    def begin(self, problem: Any, theta: Any) -> SharpnessTracker:
        return SharpnessTracker(self.eigenvalues, self.tolerance, top=next(iter(self.variables)))


@dataclass(frozen=True, kw_only=True)
class PreconditionedSharpness(Sharpness):
    """λ_max(P^{-1/2} ∇²f P^{-1/2}), P the diagonal of an adaptive method; for P = 1 the sharpness."""

    preconditioned: ClassVar[bool] = True
    variables: ClassVar = {
        "preconditioned_sharpness": Variable("preconditioned sharpness λ_max(P^{-1/2} ∇²f P^{-1/2})", tolerance=FOUND),
        **{name: variable for name, variable in Sharpness.variables.items() if name != "sharpness"},
    }


@dataclass(frozen=True, kw_only=True)
class SegmentSharpness(Measurement):
    """λ_max(∇²f) at so many equidistant `points` of the step of gradient descent from θ_t, both ends included.

    Their maximum bounds the smoothness L_t between the two iterates (Ahn et al. 2022, corollary 1) from below.
    """

    points: int
    products: ClassVar[bool] = True
    variables: ClassVar = {
        "segment_sharpness": Variable("sharpness λ_max(∇²f) at points of the step", dims=("tau",), tolerance=FOUND),
    }

    def gradients(self, n: int) -> float:
        return 5.0 * self.points  # those of a sharpness at each

    def begin(self, problem: Any, theta: Any) -> "_SegmentTracker":
        return _SegmentTracker(self.points)


class _SegmentTracker:
    def __init__(self, points: int):
        self.trackers = [SharpnessTracker() for _ in range(points)]

    def measure(self, point, step_size: float) -> dict[str, list[float]]:
        values = []
        for tau, tracker in zip(torch.linspace(0, 1, len(self.trackers)).tolist(), self.trackers, strict=True):
            there = point.objective.expand(point.theta - step_size * tau * point.gradient) if tau else point
            values.append(tracker.at(there).values[0].item())
        return {"segment_sharpness": values}

    def state(self) -> dict:
        return {str(i): tracker.state() for i, tracker in enumerate(self.trackers)}

    def load(self, state: dict) -> None:
        for i, tracker in enumerate(self.trackers):
            tracker.load(state[str(i)])
