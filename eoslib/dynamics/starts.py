"""Gradient descent from many starting points, side by side in one compiled loop, with noise of `counter_noise`."""

import functools
from collections.abc import Sequence
from typing import ClassVar

import numpy as np
import torch

from eoslib.dynamics.counter_noise import NOISES, keys
from eoslib.measure.variables import Variable
from eoslib.problems.compiled import compiled, in_shares

BLOCK = 128  # points that advance side by side: in ten dimensions their arrays fit a core's nearest cache
WORK = 1 << 24  # coordinates that one `Starts.step` updates at most: tenths of a second


def uniform_points(box: Sequence[tuple[float, float]], n: int, seed: int) -> np.ndarray:
    """n starting points (n, d), uniform in the box that has one (low, high) for each of d dimensions."""
    bounds = np.array(box, np.float64)
    if bounds.ndim != 2 or bounds.shape[1] != 2 or not np.isfinite(bounds).all() or (bounds[:, 0] > bounds[:, 1]).any():
        raise ValueError(f"box must be a finite (low, high) for each dimension, low ≤ high, got {box}")
    r = torch.rand(n, len(bounds), generator=torch.Generator().manual_seed(seed), dtype=torch.float64).numpy()
    return bounds.mean(1) + (bounds[:, 1] - bounds[:, 0]) / 2 * (2 * r - 1)


class Starts:
    """θ_{t+1} = θ_t − ηv_t, v_t = βv_{t−1} + ∇f(θ_t) + ξ_t, on a `Landscape` from each starting point, as a process.

    theta: the starting points (n, d). keep: the t from 0 to steps − 1 at which θ_t (n, d) is observed. noise, sigma,
    seed: see `noise_at`; sigma is one for all points or (n,). momentum: β. balls: (centre (d,), radius) for each region
    of which is noted, for each point, the first t at which θ_t lies in it (`entered_at`), the first one after that at
    which it does not (`left_at`), both −1 if there is none, and at how many it does (`inside`). A point ends alone, and
    stays where it is, at the first t at which θ_t is not finite or farther than `escape` from the origin; `diverged_at`
    holds this t, else −1. One `step()` goes as far as `WORK` allows, at most to the next kept t. Bits do not depend on
    threads.
    """

    variables: ClassVar = {
        "theta": Variable("parameters θ of each starting point", dims=("start", "coordinate")),
        "diverged_at": Variable("step at which each starting point has ended, −1 if it has not", dims=("start",)),
    }
    device = torch.device("cpu")
    kept: ClassVar = {}

    def __init__(
        self, landscape, theta, step_size, steps, keep=(0,), noise="none", sigma=0.0, seed=0, escape=1e6, momentum=0.0,
        balls=(),
    ):  # fmt: skip
        self.theta, d = np.asarray(theta, np.float64).copy(), landscape.dimension
        self.keep = sorted(set(keep))
        n, sigma = len(self.theta), np.asarray(sigma, np.float64)
        self.centres = np.array([c for c, _ in balls], np.float64).reshape(len(balls), -1 if len(balls) else d)
        self.radii = np.array([r for _, r in balls], np.float64)
        for name, value, holds, expected in (
            ("theta", self.theta, self.theta.shape[1:] == (d,) and self.theta.size > 0, f"of shape (n, {d}), n ≥ 1"),
            ("theta", self.theta, np.isfinite(self.theta).all(), "finite"),
            ("step_size", step_size, 0 < step_size < np.inf, "positive and finite"),
            ("steps", steps, steps >= 1, "at least 1"),
            ("keep", self.keep, all(0 <= t < steps for t in self.keep), f"steps from 0 to {steps - 1}"),
            ("noise", noise, noise in NOISES, f"one of {', '.join(NOISES)}"),
            ("sigma", sigma, sigma.shape in ((), (n,)), f"a number or of shape ({n},)"),
            ("sigma", sigma, ((sigma >= 0) & (sigma < np.inf)).all(), "≥ 0 and finite"),
            ("sigma", sigma, (sigma == 0).all() or noise != "none", "≥ 0, and 0 without noise"),
            ("momentum", momentum, 0 <= momentum < 1, "at least 0 and less than 1"),
            ("balls", balls, self.centres.shape == (len(balls), d), f"of centres with {d} coordinates"),
            ("balls", balls, (self.radii > 0).all(), "of positive radii"),
            ("escape", escape, 0 < escape <= 1e150, "positive and at most 1e150, whose square is a float"),
        ):
            if not holds:
                raise ValueError(f"{name} must be {expected}, got {value!r}")
        with np.errstate(all="ignore"):
            landscape.gradient_at(self.theta[0].copy(), np.empty(d))  # sees a wrong `dimension`; compiled loops do not
            self.diverged_at = np.where((self.theta**2).sum(1) <= escape**2, -1, 0)
        self.steps, self.sigma = steps, np.broadcast_to(sigma, n).copy()  # of one layout, or Numba compiles twice
        self._arguments = float(step_size), float(momentum), float(escape) ** 2
        self._loop, self._keys = _loop(landscape, noise, momentum > 0), keys(seed, np.arange(n))
        self.velocity = np.zeros((n if momentum else 0, d))
        inside = ((self.theta[:, None] - self.centres) ** 2).sum(2) < self.radii**2
        self.visits = np.stack([np.where(inside, 0, -1), np.full(inside.shape, -1), inside.astype(np.int64)])
        self.t, self._row = 0, {}

    entered_at = property(lambda self: self.visits[0], doc="(n, balls)")
    left_at = property(lambda self: self.visits[1], doc="(n, balls)")
    inside = property(lambda self: self.visits[2], doc="(n, balls)")

    @property
    def finished(self) -> bool:
        """Whether the last step is done."""
        return self.t >= self.steps

    def step(self) -> None:
        """Move on to the next kept step, or as far as `WORK` allows."""
        row = {"theta": self.theta, "diverged_at": self.diverged_at}  # arrays that never change
        self._row = {"chosen": row} if self.t in self.keep else {}
        pause = next((t for t in self.keep if t > self.t), self.steps)
        until = min(pause, self.t + max(1, WORK // self.theta.size))
        threads, theta, diverged_at = torch.get_num_threads(), self.theta.copy(), self.diverged_at.copy()
        velocity, visits = self.velocity.copy(), self.visits.copy()
        moving = (theta, diverged_at, self._keys, self.sigma, velocity, *visits)
        share = BLOCK * -(-len(theta) // (4 * threads * BLOCK))  # whole blocks, whose bits never depend on their thread

        def advance(ours: slice) -> None:
            self._loop(*(a[ours] for a in moving), self.centres, self.radii**2, self.t, until, *self._arguments)

        in_shares(advance, len(theta), share)
        self.t, self.theta, self.diverged_at, self.velocity, self.visits = until, theta, diverged_at, velocity, visits

    def observe(self) -> dict[str, dict]:
        """θ where the last `step()` began, if that is to be kept."""
        return self._row

    def state(self) -> dict:
        """All that the next step depends on, and the number of gradients of single points so far."""
        gradients = int(np.where(self.diverged_at < 0, self.t, self.diverged_at).sum())
        arrays = {"theta": self.theta, "ended": self.diverged_at}
        arrays |= {"velocity": self.velocity} if self.velocity.size else {}
        arrays |= {"visits": self.visits} if self.visits.size else {}
        arrays = {name: torch.from_numpy(array) for name, array in arrays.items()}
        return {"t": self.t, "gradients": gradients, "products": 0} | arrays

    def load(self, state: dict) -> None:
        """Continue from `state`."""
        self.t = state["t"]
        self.theta, self.diverged_at = state["theta"].numpy(), state["ended"].numpy()
        self.velocity = state["velocity"].numpy() if "velocity" in state else self.velocity
        self.visits = state["visits"].numpy() if "visits" in state else self.visits


@functools.cache
def _loop(landscape, noise: str, heavy: bool):
    import numba

    gradient_at, d = compiled(landscape.gradient_at), landscape.dimension
    noisy, draw = noise != "none", compiled(NOISES[noise] or NOISES["uniform"])

    @numba.njit(nogil=True, error_model="numpy")
    def advance(
        theta, diverged_at, keys, sigma, velocity, entered_at, left_at, inside, centres, radii2, t, until,
        step_size, momentum, escape2,
    ):  # fmt: skip
        # Coordinates first, in arrays of known shape: neighbours in memory are neighbouring points, and fill a vector.
        # They are filled one by one: that two slices fit each other Numba checks with code that takes longer to compile
        # than all the rest
        x, g, v, square = np.empty((d, BLOCK)), np.empty((d, BLOCK)), np.empty((d, BLOCK)), np.empty(BLOCK)
        for begin in range(0, len(theta), BLOCK):
            n = min(BLOCK, len(theta) - begin)
            ours = slice(begin, begin + n)
            ended, key, size = diverged_at[ours], keys[ours], sigma[ours]
            for k in range(d):
                for i in range(n):
                    x[k, i] = theta[begin + i, k]
                    if heavy:
                        v[k, i] = velocity[begin + i, k]
            for step in range(t, until):
                for i in range(n):
                    gradient_at(x[:, i], g[:, i])
                    square[i] = 0
                for k in range(d):
                    for i in range(n):
                        if noisy:
                            g[k, i] += size[i] * draw(key[i], np.uint64(2 * (step * d + k)))
                        if heavy:
                            g[k, i] = v[k, i] = momentum * v[k, i] + g[k, i]
                        x[k, i] = x[k, i] - step_size * g[k, i] if ended[i] < 0 else x[k, i]
                        square[i] += x[k, i] * x[k, i]
                for i in range(n):
                    ended[i] = step + 1 if (ended[i] < 0) & (not square[i] <= escape2) else ended[i]
                for b in range(len(radii2)):
                    for i in range(n):
                        square[i] = 0
                    for k in range(d):
                        for i in range(n):
                            square[i] += (x[k, i] - centres[b, k]) * (x[k, i] - centres[b, k])
                    for i in range(n):
                        entered, left, now = entered_at[begin + i, b], left_at[begin + i, b], square[i] < radii2[b]
                        inside[begin + i, b] += now
                        entered_at[begin + i, b] = step + 1 if now & (entered < 0) else entered
                        left_at[begin + i, b] = step + 1 if (not now) & (entered >= 0) & (left < 0) else left
            for k in range(d):
                for i in range(n):
                    theta[begin + i, k] = x[k, i]
                    if heavy:
                        velocity[begin + i, k] = v[k, i]

    return advance
