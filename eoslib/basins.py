"""Which starting points of gradient descent converge, and which of them stably (Chen et al. 2024).

U_η holds the starting points from which f falls at every step and the iterates reach a minimiser; V_η those from which
they reach one at all. Whether a sequence converges cannot be seen from finitely many iterates. But around each minimiser
lies a ball that settles it, see `trap_radius`: an iterate inside stays inside, converges, and f falls at each
step from there on. So a point is decided as soon as its iterate enters a trap, far from where rounding hides
whether f falls.
"""

import enum
import functools
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from eoslib import landscapes
from eoslib.landscapes import Polynomial

REST = 1e-13  # length of a step
BLOCK = 1024  # points that advance side by side: their eight arrays fit a core's nearest caches


class Outcome(enum.IntEnum):
    """What becomes of a starting point."""

    STABLE = 0  # in U_η: reaches a minimiser, f falls at every step
    UNSTABLE = 1  # in V_η but not in U_η
    DIVERGED = 2
    DEGENERATE = 3  # comes to rest where the Hessian is singular: at a non-strict minimum, for instance
    SADDLE = 4  # comes to rest where the Hessian has a negative eigenvalue
    CYCLING = 5  # returns to itself
    WANDERING = 6  # none of these within the steps given


@dataclass(frozen=True)
class Basins:
    """One entry for each starting point, in the shape of the starting points.

    outcome: an `Outcome` (uint8). steps: after which it was decided (int32). last_rise: the step after which f only
    fell, 0 if it always fell (int32). minimiser: which was reached, −1 for none (int8).
    """

    outcome: np.ndarray
    steps: np.ndarray
    last_rise: np.ndarray
    minimiser: np.ndarray


def trap_radius(landscape: Polynomial, step_size: float, minimiser: tuple[float, float], grid: int = 64) -> float:
    """The largest radius r (to 1 %) such that all eigenvalues of ∇²f lie in (0, 2/η) on the ball B(θ*, r).

    On the ball ‖I − η∇²f‖ < 1, hence F(θ) = θ − η∇f(θ) contracts it into itself and the iterates converge to θ*; and
    by Taylor's formula f falls in each step by at least η(1 − ηM/2)‖∇f‖² with M < 2/η the largest eigenvalue
    (Chen et al. 2024, Lemma 1). The eigenvalues are examined on `grid` rings of as many points. 0 if there is no
    such ball: η is too large for this minimiser.
    """
    x, y = minimiser
    radius, angle = np.meshgrid(np.linspace(0, 1, grid), np.linspace(0, 2 * np.pi, grid, endpoint=False))
    dx, dy = radius * np.cos(angle), radius * np.sin(angle)

    def holds(r: float) -> bool:
        xx, xy, yy = landscape.hessian(x + r * dx, y + r * dy)
        mean, half_gap = (xx + yy) / 2, np.hypot((xx - yy) / 2, xy)
        return bool(np.all((mean - half_gap > 0) & (mean + half_gap < 2 / step_size)))

    low, high = 0.0, 10.0
    while high - low > 0.01 * high and high > 1e-9:
        middle = (low + high) / 2
        low, high = (middle, high) if holds(middle) else (low, middle)
    return low


def classify(
    landscape: Polynomial,
    step_size: float,
    x: np.ndarray | Tensor,
    y: np.ndarray | Tensor,
    max_steps: int = 5000,
    escape: float = 1e3,
    trap: float = 0.5,
) -> Basins:
    """What gradient descent with `step_size` does from the starting points (x, y), two float64 arrays of one shape.

    A NumPy array is computed on the CPU by compiled loops, a tensor by PyTorch where it lies; both give the same bits.
    An iterate that moves by less than `REST` has come to rest. escape: an iterate at that distance from the origin, or beyond what floats hold, counts as diverged. trap: the part of
    `trap_radius` that is used. Raises ValueError unless 0 < step_size < 2/λ_max(θ*) for every minimiser θ*, which is
    condition (6) of Chen et al.
    """
    radii = [trap * trap_radius(landscape, step_size, minimiser) for minimiser in landscape.minimisers]
    if not step_size > 0 or min(radii) < 1e-8:
        raise ValueError(f"step_size must be positive and less than 2/λ_max at the minimisers, got {step_size}")
    minimisers = np.array([(*m, r * r) for m, r in zip(landscape.minimisers, radii, strict=True)])
    if isinstance(x, Tensor):
        decided = _advance_tensors(landscape, step_size, x, y, minimisers, max_steps, escape)
    else:
        decided = _advance_arrays(landscape, step_size, x, y, minimisers, max_steps, escape)
    end_x, end_y, steps, last_rise, minimiser = decided
    outcome = np.where(last_rise == 0, Outcome.STABLE, Outcome.UNSTABLE).astype(np.uint8)
    with np.errstate(invalid="ignore", over="ignore"):
        outcome[~(end_x * end_x + end_y * end_y < escape * escape)] = Outcome.DIVERGED
    left = (minimiser < 0) & (outcome != Outcome.DIVERGED)
    outcome[left] = _at_rest_or_not(landscape, step_size, end_x[left], end_y[left])
    return Basins(outcome, steps, last_rise, minimiser)


def _at_rest_or_not(landscape: Polynomial, step_size: float, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """The outcome of bounded iterates (x, y) that no trap caught."""
    x_step, y_step = (step_size * g for g in landscape.gradient(x, y))
    xx, xy, yy = landscape.hessian(x, y)
    smallest = (xx + yy) / 2 - np.hypot((xx - yy) / 2, xy)
    at_rest = np.where(smallest < -1e-6, Outcome.SADDLE, Outcome.DEGENERATE)
    moving = np.full(len(x), Outcome.WANDERING)
    later_x, later_y = x.copy(), y.copy()
    for _ in range(64):  # the longest cycle looked for
        g, h = landscape.gradient(later_x, later_y)
        later_x, later_y = later_x - step_size * g, later_y - step_size * h
        moving[np.hypot(later_x - x, later_y - y) < 1e-9] = Outcome.CYCLING
    return np.where(x_step * x_step + y_step * y_step < REST * REST, at_rest, moving)


def _advance_arrays(landscape, step_size, x, y, minimisers, max_steps, escape):
    """Last iterate, steps, last rise and minimiser of each point, by compiled loops on all cores."""
    shape, x, y = x.shape, np.array(x, np.float64).ravel(), np.array(y, np.float64).ravel()
    steps, last_rise = np.full(x.size, max_steps, np.int32), np.zeros(x.size, np.int32)
    minimiser = np.full(x.size, -1, np.int8)
    _compiled(landscape.name)(
        x, y, steps, last_rise, minimiser, minimisers, step_size, max_steps, escape * escape, REST * REST
    )
    return tuple(a.reshape(shape) for a in (x, y, steps, last_rise, minimiser))


@functools.cache
def _compiled(name: str) -> Callable:
    """The loop over blocks of points for one landscape. Numba is imported here: a GPU does without it."""
    import numba

    landscape = landscapes.get(name)
    value, gradient = (numba.njit(f, inline="always") for f in (landscape.value, landscape.gradient))

    @numba.njit(parallel=True, nogil=True)
    def advance(x_all, y_all, steps, last_rise, minimiser, minimisers, step_size, max_steps, escape2, rest2):
        for block in numba.prange((x_all.size + BLOCK - 1) // BLOCK):
            begin = block * BLOCK
            n = min(BLOCK, x_all.size - begin)
            # One entry for each undecided point. The loops over them have no branches, so that they run on vectors.
            x, y = x_all[begin : begin + n].copy(), y_all[begin : begin + n].copy()
            f, moved2, inside = value(x, y), np.full(n, np.inf), np.empty(n, np.int8)
            rise, where, decided = np.zeros(n, np.int32), np.arange(begin, begin + n), np.empty(n, np.bool_)
            k = 0
            while n > 0 and k <= max_steps:
                inside[:n] = -1
                for m in range(len(minimisers)):
                    for i in range(n):
                        dx, dy = x[i] - minimisers[m, 0], y[i] - minimisers[m, 1]
                        inside[i] = m if dx * dx + dy * dy < minimisers[m, 2] else inside[i]
                count = 0
                for i in range(n):
                    decided[i] = (
                        (inside[i] >= 0)
                        | (not x[i] * x[i] + y[i] * y[i] < escape2)
                        | (moved2[i] < rest2)
                        | (k == max_steps)
                    )
                    count += decided[i]
                if count > 0:  # decided points leave
                    kept = 0
                    for i in range(n):
                        if decided[i]:
                            x_all[where[i]], y_all[where[i]] = x[i], y[i]
                            steps[where[i]], last_rise[where[i]], minimiser[where[i]] = k, rise[i], inside[i]
                        else:
                            x[kept], y[kept], f[kept], rise[kept], where[kept] = x[i], y[i], f[i], rise[i], where[i]
                            kept += 1
                    n = kept
                k += 1
                for i in range(n):
                    gx, gy = gradient(x[i], y[i])
                    x_step, y_step = step_size * gx, step_size * gy
                    x[i] -= x_step
                    y[i] -= y_step
                    moved2[i] = x_step * x_step + y_step * y_step
                    after = value(x[i], y[i])
                    rise[i] = rise[i] if after < f[i] else k
                    f[i] = after

    return advance


def _advance_tensors(landscape, step_size, x, y, minimisers, max_steps, escape):
    """The same for tensors, all points side by side, on the device where they lie."""
    shape, x, y = x.shape, x.flatten(), y.flatten()
    end_x, end_y = x.clone(), y.clone()
    steps = torch.full_like(x, max_steps, dtype=torch.int32)
    last_rise, minimiser = torch.zeros_like(steps), torch.full_like(x, -1, dtype=torch.int8)
    f, rise, where = landscape.value(x, y), torch.zeros_like(steps), torch.arange(len(x), device=x.device)
    moved2 = torch.full_like(x, torch.inf)
    for k in range(max_steps + 1):
        inside = torch.full_like(where, -1, dtype=torch.int8)
        for m, (x_m, y_m, radius2) in enumerate(minimisers.tolist()):
            inside[(x - x_m) * (x - x_m) + (y - y_m) * (y - y_m) < radius2] = m
        decided = (inside >= 0) | ~(x * x + y * y < escape * escape) | (moved2 < REST * REST)
        if k == max_steps:
            decided[:] = True
        if decided.any():
            gone, stay = where[decided], ~decided
            end_x[gone], end_y[gone], steps[gone] = x[decided], y[decided], k
            last_rise[gone], minimiser[gone] = rise[decided], inside[decided]
            x, y, f, rise, where = x[stay], y[stay], f[stay], rise[stay], where[stay]
        if not len(x):
            break
        gx, gy = landscape.gradient(x, y)
        x_step, y_step = step_size * gx, step_size * gy
        x, y, moved2 = x - x_step, y - y_step, x_step * x_step + y_step * y_step
        after = landscape.value(x, y)
        rise = torch.where(after < f, rise, k + 1)
        f = after
    return tuple(t.cpu().numpy().reshape(shape) for t in (end_x, end_y, steps, last_rise, minimiser))
