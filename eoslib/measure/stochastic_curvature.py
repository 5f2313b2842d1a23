"""Curvature as minibatches and line searches see it: what is used in place of the sharpness where that costs too much.

On one trajectory, beside `curvature.Sharpness` and the directional smoothness of `progress.Progress`: the sharpness of
a sample, power iteration whose products are each of another minibatch, batch sharpness, critical sharpness. Each comes
with a standard error or residual.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from eoslib.measure import host
from eoslib.measure.curvature import FOUND, random_rows, top_eigenpairs
from eoslib.measure.noise import Sampler
from eoslib.measure.variables import Measurement, Stateful, Variable
from eoslib.problems.objective import Objective, SupervisedObjective

COST = {"tolerance": float("inf")}
ROUGHLY = 0.1  # to which λ₁ − λ_min says which end of the spectrum is the larger one


def along(v: Tensor, objective: SupervisedObjective, theta: Tensor, minibatches: Sequence[Tensor]) -> Tensor:
    """⟨v, ∇²L_B(θ)v⟩ of a unit vector v (p,) for each minibatch, shape (k,)."""
    return torch.stack([v @ part.expand(theta).hvp(v) for part in objective.batches(minibatches)])


@dataclass(frozen=True, kw_only=True)
class SampleSharpness(Measurement):
    """λ_max of the Hessian on so many `examples`, by default all, in minibatches of `batch_size`, and its operator norm
    max |λ|, which is what Zhang et al. 2021, (2) asks for.

    λ_max of a sample is too large on average, since λ_max is convex in the Hessian. Its eigenvector's Rayleigh quotient
    on as many fresh examples is too small, so that the two bracket λ_max of all; nan where too few are left. The
    standard errors are those of the mean of the minibatches' Rayleigh quotients, seed: of their choice.
    """

    batch_size: int
    examples: int | None = None
    seed: int = 0
    whole: ClassVar[bool] = False
    products: ClassVar[bool] = True
    variables: ClassVar = {
        "sample_sharpness": Variable("sharpness λ_max of the sample", tolerance=FOUND),
        "sample_sharpness_se": Variable("standard error of the sample's sharpness", tolerance=0.01),
        "sample_sharpness_residual": Variable("residual ‖Hu − λu‖ / |λ| of the sample's eigenpair", **COST),
        "sample_operator_norm": Variable("operator norm ‖∇²L‖ of the sample", tolerance=FOUND),
        "fresh_sharpness": Variable("curvature of fresh examples along the sample's eigenvector", tolerance=0.01),
        "fresh_sharpness_se": Variable("standard error of the curvature of fresh examples", tolerance=0.01),
        "sample_products": Variable("Hessian-vector products spent on the sample", **COST),
    }

    def gradients(self, n: int) -> float:
        return 50 * (self.examples or n) / n  # two cold searches

    def begin(self, problem: Any, theta: Any) -> "_OnSample":
        return _OnSample(self)


class _OnSample(Sampler):
    def measure(self, point: Any, step_size: float) -> dict[str, float]:
        objective, theta, n = point.objective, point.theta, len(point.objective.labels)
        minibatches = [minibatch.to(theta.device) for minibatch in self.minibatches(point)]
        m = len(torch.cat(minibatches))
        left_out = ((1 - m / n) / len(minibatches)) ** 0.5
        here = objective.batch(torch.cat(minibatches)).expand(theta)
        start = random_rows(2, theta, int(minibatches[0][0]))
        highest = top_eigenpairs(here.hvp, start[:1], tolerance=FOUND, wanted="values", spare=20)
        top, u = highest.values[0], highest.vectors[0]

        def turned(v: Tensor) -> Tensor:
            """(λ₁ − H)v, whose λ₁ − λ_min is found, to a share of itself, much sooner than a small λ_min."""
            return top.to(v) * v - here.hvp(v)

        # a few products at least: the residual of a random vector is small where most eigenvalues are 0
        width = top_eigenpairs(turned, start[1:], tolerance=ROUGHLY, wanted="values", spare=10)
        products = highest.products + width.products
        if not (1 + 2 * ROUGHLY) * width.values[0] < 2 * top:  # −λ_min may be the larger of the two
            width = top_eigenpairs(turned, start[1:], tolerance=FOUND, wanted="values")
            products += width.products
        spread = along(u, objective, theta, minibatches).std() * left_out
        row = {
            "sample_sharpness": top,
            "sample_sharpness_se": spread,
            "sample_sharpness_residual": highest.residuals[0] / top.abs(),
            "sample_operator_norm": torch.maximum(top, width.values[0] - top),
            "fresh_sharpness": torch.nan,
            "fresh_sharpness_se": torch.nan,
            "sample_products": float(products),
        }
        if 2 * m <= n:
            left = torch.ones(n, dtype=torch.bool, device=theta.device)
            left[torch.cat(minibatches)] = False
            others = left.nonzero()[:, 0]
            chosen = torch.randperm(len(others), generator=self.generator)[:m].to(theta.device)
            fresh = along(u, objective, theta, others[chosen].split(self.declared.batch_size))
            row |= {"fresh_sharpness": fresh.mean(), "fresh_sharpness_se": fresh.std() * left_out}
        return host.numbers(row)


@dataclass(frozen=True, kw_only=True)
class PowerIteration(Measurement):
    """`iterations` of the power method from a random vector, each on a new minibatch of `batch_size`; the last one's
    Rayleigh quotient. So Zhang et al. 2021 estimated the sharpness, with 5 and 10 of them, after Wu et al. 2018: it
    tends to the eigenvalue of largest size, and is noisy by construction."""

    batch_size: int
    iterations: int = 10
    seed: int = 0
    whole: ClassVar[bool] = False
    variables: ClassVar = {
        "power_sharpness": Variable("sharpness by power iteration on fresh minibatches"),
        "power_sharpness_residual": Variable("residual ‖Hv − μv‖ / |μ| of its last product"),
    }

    def gradients(self, n: int) -> float:
        return 2 * self.iterations * self.batch_size / n

    def begin(self, problem: Any, theta: Any) -> "_Power":
        return _Power(self)


class _Power(Sampler):
    def measure(self, point: Any, step_size: float) -> dict[str, float]:
        theta = point.theta
        v = torch.randn(len(theta), generator=self.generator, dtype=torch.float64).to(theta)
        for _ in range(self.declared.iterations):
            v = v / v.norm()
            product = self.fresh(point).expand(theta).hvp(v)
            quotient, last, v = v @ product, v, product
        residual = (product - quotient * last).norm() / quotient.abs()
        return host.numbers({"power_sharpness": quotient, "power_sharpness_residual": residual})


@dataclass(frozen=True, kw_only=True)
class BatchSharpness(Measurement):
    """E[⟨g, ∇²L_B g⟩ / ‖g‖²], g = ∇L_B, over `minibatches` of `batch_size` (Andreyev & Beneventano 2024,
    arXiv:2412.20553), which stochastic gradient descent holds at 2/η."""

    batch_size: int
    minibatches: int
    seed: int = 0
    whole: ClassVar[bool] = False
    variables: ClassVar = {
        "batch_sharpness": Variable("batch sharpness E[⟨g, ∇²L_B g⟩ / ‖g‖²]"),
        "batch_sharpness_se": Variable("standard error of the batch sharpness"),
    }

    def gradients(self, n: int) -> float:
        return 2 * self.minibatches * self.batch_size / n

    def begin(self, problem: Any, theta: Any) -> "_Along":
        return _Along(self)


class _Along(Sampler):
    def measure(self, point: Any, step_size: float) -> dict[str, float]:
        quotients = []
        for _ in range(self.declared.minibatches):
            here = self.fresh(point).expand(point.theta)
            g = here.gradient
            quotients.append(g @ here.hvp(g) / (g @ g))
        found = torch.stack(quotients)
        error = found.std() / len(found) ** 0.5
        return host.numbers({"batch_sharpness": found.mean(), "batch_sharpness_se": error})


def critical_step(
    objective: Objective, theta: Tensor, value: float, v: Tensor, guess: float, tolerance=1 / 16, most=60
) -> tuple[float, float, int]:
    """The step size from which on a step along −v no longer lowers f: between the first two numbers returned, which
    differ by at most `tolerance` of the larger; and how many values of f it took. value: f(θ). guess: where the search
    begins, by doubling or halving. (0, inf) if nothing is found with `most` values."""

    def lowers(step: float) -> bool:
        return objective.value(theta - step * v).item() < value  # not if it is nan

    low, high, spent, step = 0.0, float("inf"), 0, guess
    while spent < most and not (high - low) <= tolerance * high < float("inf"):
        spent += 1
        low, high = (step, high) if lowers(step) else (low, step)
        step = 2 * low if high == float("inf") else high / 2 if low == 0 else (low + high) / 2
    return (low, high, spent) if low > 0 and high < float("inf") else (0.0, float("inf"), spent)


@dataclass(frozen=True, kw_only=True)
class CriticalSharpness(Measurement):
    """2/η_c, η_c the step size from which on a step of gradient descent no longer lowers f, see `critical_step`: found
    by five or six forward passes, no product (the critical sharpness of facebookresearch/scalable-curvature, 2026).
    On a quadratic it is the curvature ⟨g, Hg⟩/‖g‖² along the gradient. Each search begins at the last step size."""

    variables: ClassVar = {
        "critical_sharpness": Variable("critical sharpness 2/η_c along the gradient"),
        "critical_sharpness_error": Variable("half the width of the interval in which the critical sharpness lies"),
        "forward_passes": Variable("forward passes spent"),
    }

    def gradients(self, n: int) -> float:
        return 2.0  # six forward passes

    def begin(self, problem: Any, theta: Any) -> "_Critical":
        return _Critical()


class _Critical(Stateful):
    carries = ("guess",)

    def __init__(self):
        self.guess = 0.0  # none yet

    def measure(self, point: Any, step_size: float) -> dict[str, float]:
        where = point.objective, point.theta, point.value.item(), point.gradient
        low, high, spent = critical_step(*where, self.guess or step_size)
        if low > 0:
            self.guess = (low + high) / 2
        found, error = (1 / low + 1 / high, 1 / low - 1 / high) if low > 0 else (float("nan"),) * 2
        return {"critical_sharpness": found, "critical_sharpness_error": error, "forward_passes": float(spent)}
