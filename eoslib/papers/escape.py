"""Sharp regions that large steps leave and avoid (Mohtashami, Jaggi & Stich 2023).

The constants of a function of one variable, computed exactly and proved with interval arithmetic; the conditions of
Lemma 1; and where gradient descent with noise ends, over a grid of step sizes and sizes of the noise.
"""

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import ClassVar

import numpy as np
from flint import arb
from numpy.polynomial import Polynomial

from eoslib.dynamics.scan import Scan
from eoslib.dynamics.starts import Starts, uniform_points
from eoslib.measure.certificates import Proof, prove
from eoslib.measure.variables import Variable
from eoslib.problems.landscapes import Landscape, Piecewise, TwoBowls

# --- constants of a function of one variable --------------------------------------------------------------


def _pieces(landscape: Piecewise, low: float, high: float) -> list[tuple[float, float, Polynomial]]:
    """The pieces of f on [low, high]: (from, to, polynomial in x)."""
    ends = [low, *(k for k in landscape.knots if low < k < high), high]
    middles = [(a + b) / 2 for a, b in pairwise(ends)]
    chosen = np.searchsorted(landscape.knots, middles, side="right")
    shift = [Polynomial([-c, 1]) for c, _ in landscape.pieces]
    polynomials = [Polynomial(landscape.pieces[i][1])(shift[i]) for i in chosen]
    return [(a, b, p) for (a, b), p in zip(pairwise(ends), polynomials, strict=True)]


def jumps(landscape: Piecewise, order: int) -> dict[float, float]:
    """How far f (order 0) or its derivative of this order jumps at each knot."""
    right = landscape.derivative(order)
    return {k: right(k) - right(math.nextafter(k, -math.inf)) for k in landscape.knots}


def smoothness(landscape: Piecewise, low: float, high: float) -> float:
    """The smallest L for which f is L-smooth on (low, high), definition 1; infinite if f′ jumps there."""
    slopes = landscape.derivative(1)
    scale = max(abs(slopes(np.linspace(low, high, 1001))))
    if any(abs(jump) > 1e-9 * scale for k, jump in jumps(landscape, 1).items() if low < k < high):
        return math.inf
    return max(abs(p.deriv(2)(x)) for a, b, p in _pieces(landscape, low, high) for x in _candidates(p.deriv(3), a, b))


def one_point_convexity(landscape: Piecewise, towards: float, low: float, high: float) -> float:
    """The largest μ for which f is μ-one-point-strongly convex with respect to `towards` on (low, high), definition 2:
    the least f′(x) / (x − towards). Negative where f falls away from `towards`, −∞ where that is not stationary."""
    if low < towards < high and not _stationary(landscape, towards):
        return -math.inf
    least = math.inf
    for a, b, p in _pieces(landscape, low, high):
        slope, away = p.deriv(), Polynomial([-towards, 1])
        for x in _candidates(slope.deriv() * away - slope, a, b):
            least = min(least, slope(x) / (x - towards) if abs(x - towards) > 1e-6 else slope.deriv()(towards))
    return float(least)


def _stationary(landscape: Piecewise, x: float) -> bool:
    """Whether f′(x) = 0, to rounding."""
    return abs(landscape.derivative(1)(x)) <= 1e-9 * abs(landscape.derivative(2)(x))


def _candidates(numerator: Polynomial, a: float, b: float) -> list[float]:
    """Where a function may be extreme on [a, b] whose derivative has this numerator."""
    roots = numerator.trim().roots() if numerator.trim().degree() > 0 else []
    return [a, b, *(root.real for root in roots if abs(root.imag) < 1e-9 and a < root.real < b)]


def certify(landscape: Piecewise, towards: float, low: float, high: float, mu: float, L: float) -> dict[str, Proof]:
    """Proofs that f is L-smooth and μ-one-point-strongly convex towards `towards` on (low, high), piece by piece."""
    proofs, stationary = {"smooth": [], "convex": []}, _stationary(landscape, towards)
    for a, b, p in _pieces(landscape, low, high):
        slope, curvature = (_on_intervals(p.deriv(order)) for order in (1, 2))
        box = (arb((a + b) / 2, (b - a) / 2),)

        def convex(x, slope=slope, curvature=curvature):
            away = x - towards
            if stationary and away.contains(arb(0)):  # f′(x)/(x − x⋆) is a mean of f″ between the two
                return [curvature(x.union(arb(towards))) - mu]
            return [slope(x) * away - mu * away * away]

        proofs["smooth"].append(prove(box, lambda x: arb(1), lambda x, f=curvature: [L - f(x), L + f(x)]))
        proofs["convex"].append(prove(box, lambda x: arb(1), convex))
    return {name: min(found, key=lambda proof: proof.proved) for name, found in proofs.items()}


def _on_intervals(p: Polynomial):
    coefficients = [float(a) for a in p.coef[::-1]]

    def value(x):
        total = arb(0)
        for a in coefficients:
            total = total * x + a
        return total

    return value


# --- the conditions of Lemma 1 ----------------------------------------------------------------------------


def far_enough(bowls: TwoBowls, step_size: float) -> float:
    """By what factor ‖x† − x⋆‖ exceeds the distance that Lemma 1 asks for, with r the diameter of M
    r(1 + √((γ²L_g² − 3)(1 − γμ⋆))) / (1 − √(1 − γμ⋆)), at a step size γ of (2/μ†, μ⋆/L²]; nan outside of that interval.
    """
    gamma, L, mu, r = step_size, bowls.smoothness, bowls.sharp, 2 * bowls.radius
    if not 2 / mu < gamma <= 1 / L:
        return math.nan
    root = math.sqrt(1 - gamma * L)
    return bowls.distance * (1 - root) / (r * (1 + math.sqrt((gamma * mu) ** 2 - 3) * root))


def smallest_escaping(
    landscape: Landscape, box, ball: tuple[Sequence[float], float], low: float, high: float, starts: int = 200,
    iterations: int = 2000, seed: int = 0,
) -> float:  # fmt: skip
    """The smallest step size at which none of the starts in a box ends in a ball, to 0.1 %, by bisection between `low`,
    at which some do, and `high`, at which none does; a ValueError if that is not so. Where escaping is not monotone in
    the step size, it is one at which it begins."""

    def escapes(step_size: float) -> bool:
        run = Starts(landscape, uniform_points(box, starts, seed), step_size, iterations)
        while not run.finished:
            run.step()
        centre, radius = ball
        return not (((run.theta - centre) ** 2).sum(1) < radius**2).any()

    if escapes(low) or not escapes(high):
        raise ValueError(f"of {landscape.name}: some starts must stay at {low} and none at {high}")
    while high > 1.001 * low:
        middle = math.sqrt(low * high)
        low, high = (low, middle) if escapes(middle) else (middle, high)
    return high


# --- where noise leads ------------------------------------------------------------------------------------

Balls = Sequence[tuple[Sequence[float], float]]


class PhaseDiagram(Scan):
    """`Starts` with noise over a grid of step sizes and sizes of the noise, as a process whose step is a step size.

    box: of the starting points, of which each cell of the grid has `runs`. iterations: of the update map. balls: the
    regions of which is observed, for each size of the noise and each ball, what share of the runs ends in it, enters
    it, enters it and never leaves it, lies in it throughout the second half; how long those that entered stayed at
    first (to the end if they did not leave), and what share of all iterates lies in it.
    """

    variables: ClassVar = {
        "eta": Variable("step size η"),
        "ends_inside": Variable("share of the runs that end in a region", dims=("sigma", "region")),
        "enter": Variable("share of the runs that enter a region", dims=("sigma", "region")),
        "never_leave": Variable("share of the runs that enter a region and never leave it", dims=("sigma", "region")),
        "stay": Variable("share of the runs that lie in a region in the whole second half", dims=("sigma", "region")),
        "first_stay": Variable("iterations from entering a region to leaving it, the mean", dims=("sigma", "region")),
        "inside": Variable("share of the iterates in a region", dims=("sigma", "region")),
    }

    def __init__(
        self, landscape: Landscape, box, step_sizes: Sequence[float], sigmas: Sequence[float], runs: int,
        iterations: int, balls: Balls, noise: str = "uniform", seed: int = 0, momentum: float = 0.0,
    ):  # fmt: skip
        super().__init__(len(step_sizes))
        self.landscape, self.box, self.step_sizes, self.runs = landscape, box, step_sizes, runs
        self.sigmas, self.iterations, self.balls = np.asarray(sigmas, np.float64), iterations, balls
        self.noise, self.seed, self.momentum = noise, seed, momentum

    def step(self) -> None:
        """All runs at the next step size."""
        # of a generator's seed PyTorch uses 32 bits: as many step sizes and seeds as 16 bits count
        eta, seed = self.step_sizes[self.t], (self.seed << 16) + self.t
        theta = uniform_points(self.box, self.runs * len(self.sigmas), seed)
        half = self.iterations // 2
        starts = Starts(
            self.landscape, theta, eta, self.iterations, keep=(half,), noise=self.noise,
            sigma=np.repeat(self.sigmas, self.runs), seed=seed, momentum=self.momentum, balls=self.balls,
        )  # fmt: skip
        before = starts.inside
        while not starts.finished:
            starts.step()
            before = starts.inside if starts.t <= half else before
        entered, left = starts.entered_at, starts.left_at
        first_stay = np.where(entered < 0, np.nan, np.where(left < 0, self.iterations, left) - entered)
        found = {
            "ends_inside": ((starts.theta[:, None] - starts.centres) ** 2).sum(2) < starts.radii**2,
            "enter": entered >= 0,
            "never_leave": (entered >= 0) & (left < 0),
            "stay": starts.inside - before == self.iterations - half,
            "first_stay": first_stay,
            "inside": starts.inside / (self.iterations + 1),
        }
        self._row = {"eta": eta} | {name: self._mean(values) for name, values in found.items()}
        self.gradients += starts.state()["gradients"]
        self.t += 1

    def _mean(self, values: np.ndarray) -> np.ndarray:
        """Over the runs of each cell, (sigma, region); nan of none."""
        cells = np.ma.masked_invalid(values.astype(float)).reshape(len(self.sigmas), self.runs, -1)
        return cells.mean(1).filled(np.nan)
