"""Which starting points of gradient descent converge, and which of them stably (Chen et al. 2024).

U_η holds the starting points from which f falls at every step and the iterates reach a minimiser; V_η those from
which they reach one at all. Whether a sequence converges cannot be seen from finitely many iterates. But around each
minimiser lies a ball that settles it, see `trap_radius`: an iterate inside stays inside, converges, and f falls at
each step from there on. So a point is decided as soon as its iterate enters a trap, far from where rounding hides
whether f falls. This settles ties near the minimum; anywhere else a step that leaves f as it was is no fall.
"""

import enum
import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from eoslib.dynamics.scan import Scan
from eoslib.measure.certificates import largest_radius
from eoslib.measure.variables import Variable
from eoslib.problems.compiled import compiled, in_shares
from eoslib.problems.landscapes import Polynomial

REST = 1e-13  # length of a step
RETURN = 1e-9  # distance within which an iterate has returned to where it was
SMALLEST_TRAP = 1e-5  # in a smaller one f changes in a step by less than rounding: η is too close to 2/λ_max
BLOCK = 1024  # points that advance side by side: their arrays fit a core's nearest caches
SHARE = 8 * BLOCK  # points that a thread takes at a time
Box = tuple[float, float, float, float]  # left, right, bottom, top


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


@functools.cache
def trap_radius(landscape: Polynomial, step_size: float, minimiser: tuple[float, float], grid: int = 64) -> float:
    """The largest radius r (to 1 %) such that all eigenvalues of ∇²f lie in (0, 2/η) on the ball B(θ*, r).

    On the ball ‖I − η∇²f‖ < 1, hence F(θ) = θ − η∇f(θ) contracts it into itself and the iterates converge to θ*; and
    by Taylor's formula f falls in each step by at least η(1 − ηM/2)‖∇f‖², M < 2/η the largest eigenvalue (Chen et al.
    2024, Lemma 1). They are examined on `grid` rings of as many points. 0 if no ball is: η is too large for θ*.
    """
    x, y = minimiser
    radius, angle = np.meshgrid(np.linspace(0, 1, grid), np.linspace(0, 2 * np.pi, grid, endpoint=False))
    dx, dy = radius * np.cos(angle), radius * np.sin(angle)

    def holds(r: float) -> bool:
        smallest, largest = landscape.eigenvalues(x + r * dx, y + r * dy)
        return bool(np.all((smallest > 0) & (largest < 2 / step_size)))

    return largest_radius(holds, 10.0)


def classify(
    landscape: Polynomial, step_size: float, x: np.ndarray, y: np.ndarray,
    max_steps: int = 5000, escape: float = 1e3, trap: float = 0.5,
) -> Basins:  # fmt: skip
    """What gradient descent with `step_size` does from the starting points (x, y), two float64 arrays of one shape.

    Compiled loops compute it on as many cores as PyTorch uses. An iterate that moves by less than `REST` has come to
    rest. escape: an iterate at that distance from the origin, or beyond what floats hold, counts as diverged. trap: the
    part of `trap_radius` that is used. Raises ValueError unless 0 < step_size < 2/λ_max(θ*) for every minimiser θ*,
    condition (6) of Chen et al., and where an iterate comes to rest at a strict minimum that is not listed.
    """
    radii = [trap * trap_radius(landscape, step_size, m) if step_size > 0 else 0.0 for m in landscape.minimisers]
    if min(radii) < SMALLEST_TRAP:
        raise ValueError(
            f"step_size must be positive and less than 2/λ_max at the minimisers of {landscape.name} (and not so close "
            f"that rounding decides whether f falls), got {step_size}"
        )
    minimisers = np.array([(*m, r * r) for m, r in zip(landscape.minimisers, radii, strict=True)])
    last_x, last_y = np.array(x, np.float64).ravel(), np.array(y, np.float64).ravel()
    steps, last_rise = np.full(last_x.size, max_steps, np.int32), np.zeros(last_x.size, np.int32)
    minimiser = np.full(last_x.size, -1, np.int8)
    with np.errstate(invalid="ignore", over="ignore"):
        f = landscape.value(last_x, last_y)
    loop, descend = _loop(), _descend(landscape)

    def advance(share: slice) -> None:
        ours = (a[share] for a in (last_x, last_y, f, steps, last_rise, minimiser))
        loop(*ours, minimisers, descend, step_size, max_steps, escape * escape, REST * REST)

    in_shares(advance, last_x.size, SHARE)
    outcome = np.where(last_rise == 0, Outcome.STABLE, Outcome.UNSTABLE).astype(np.uint8)
    with np.errstate(invalid="ignore", over="ignore"):
        outcome[~(last_x * last_x + last_y * last_y < escape * escape)] = Outcome.DIVERGED
    left = (minimiser < 0) & (outcome != Outcome.DIVERGED)
    outcome[left] = _at_rest_or_not(landscape, step_size, last_x[left], last_y[left])
    return Basins(*(a.reshape(x.shape) for a in (outcome, steps, last_rise, minimiser)))


def _at_rest_or_not(landscape: Polynomial, step_size: float, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """The outcome of bounded iterates (x, y) that no trap caught."""
    x_step, y_step = (step_size * g for g in landscape.gradient(x, y))
    smallest, _ = landscape.eigenvalues(x, y)
    rests = x_step * x_step + y_step * y_step < REST * REST
    for i in np.flatnonzero(rests & (smallest > 1e-6)):
        raise ValueError(f"({x[i]}, {y[i]}) is a strict minimum of {landscape.name}, but not among its minimisers")
    outcome = np.where(rests, np.where(smallest < -1e-6, Outcome.SADDLE, Outcome.DEGENERATE), Outcome.WANDERING)
    creeps = np.hypot(x_step, y_step) < RETURN  # on its way to a point, too slowly to say which
    moving = np.flatnonzero(~rests & ~creeps)
    x, y = later_x, later_y = x[moving], y[moving]
    for _ in range(64 if moving.size else 0):  # the longest cycle looked for
        g, h = landscape.gradient(later_x, later_y)
        later_x, later_y = later_x - step_size * g, later_y - step_size * h
        outcome[moving[np.hypot(later_x - x, later_y - y) < RETURN]] = Outcome.CYCLING
    return outcome


@functools.cache
def _descend(landscape: Polynomial) -> Callable:
    """Compiled: a step of gradient descent of the first n points, side by side. f: before it and after. moved2: its
    length, squared. rise: becomes k where f does not fall. Numba is imported here and below: a GPU does without it."""
    from numba import cfunc

    value, gradient = compiled(landscape.value), compiled(landscape.gradient)

    @cfunc("void(float64[::1], float64[::1], float64[::1], float64[::1], int64[::1], int64, int64, float64)")
    def descend(x, y, f, moved2, rise, n, k, step_size):
        for i in range(n):
            gx, gy = gradient(x[i], y[i])
            x_step, y_step = step_size * gx, step_size * gy
            x[i], y[i] = x[i] - x_step, y[i] - y_step
            moved2[i] = x_step * x_step + y_step * y_step
            after = value(x[i], y[i])
            rise[i] = rise[i] if after < f[i] else k
            f[i] = after

    return descend


@functools.cache
def _loop() -> Callable:
    """Compiled: the loop over blocks of points, once for all landscapes, whose `_descend` it is given."""
    import numba

    @numba.njit(nogil=True)
    def loop(
        x_all, y_all, f_all, steps, last_rise, minimiser, minimisers, descend, step_size, max_steps, escape2, rest2
    ):
        # One entry for each undecided point. The loops over them have no branches, so that they run on vectors.
        x, y, f, moved2 = np.empty(BLOCK), np.empty(BLOCK), np.empty(BLOCK), np.empty(BLOCK)
        # integers as wide as the floats that they are computed from: else vectors must be packed
        rise, where = np.empty(BLOCK, np.int64), np.empty(BLOCK, np.int64)
        inside, decided = np.empty(BLOCK, np.int64), np.empty(BLOCK, np.int64)
        for begin in range(0, x_all.size, BLOCK):
            n = min(BLOCK, x_all.size - begin)
            for i in range(n):
                x[i], y[i], f[i], moved2[i] = x_all[begin + i], y_all[begin + i], f_all[begin + i], np.inf
                rise[i], where[i] = 0, begin + i
            k = 0
            while n > 0 and k <= max_steps:
                for i in range(n):
                    inside[i] = -1
                for m in range(len(minimisers)):
                    for i in range(n):
                        dx, dy = x[i] - minimisers[m, 0], y[i] - minimisers[m, 1]
                        inside[i] = m if dx * dx + dy * dy < minimisers[m, 2] else inside[i]
                count = 0
                for i in range(n):
                    away = not x[i] * x[i] + y[i] * y[i] < escape2
                    decided[i] = (inside[i] >= 0) | away | (moved2[i] < rest2) | (k == max_steps)
                    count += decided[i]
                i = 0 if count > 0 else n
                while i < n:
                    if decided[i]:  # leaves, and the last one takes its place
                        x_all[where[i]], y_all[where[i]] = x[i], y[i]
                        steps[where[i]], last_rise[where[i]], minimiser[where[i]] = k, rise[i], inside[i]
                        n -= 1
                        x[i], y[i], f[i], rise[i], where[i] = x[n], y[n], f[n], rise[n], where[n]
                        decided[i], inside[i] = decided[n], inside[n]
                    else:
                        i += 1
                k += 1
                descend(x, y, f, moved2, rise, n, k, step_size)

    return loop


def pixel_centres(box: Box, grid: int) -> tuple[np.ndarray, np.ndarray]:
    """x and y, each (grid, grid), of the pixels of a box; row 0 is the lowest."""
    left, right, bottom, top = box
    fractions = (np.arange(grid) + 0.5) / grid
    return tuple(np.meshgrid(left + fractions * (right - left), bottom + fractions * (top - bottom), copy=False))


def boundary(inside: np.ndarray) -> np.ndarray:
    """The cells between four pixels of which some lie inside a set and some do not, (n, n) → (n − 1, n − 1) bool."""
    corners = np.stack([inside[:-1, :-1], inside[:-1, 1:], inside[1:, :-1], inside[1:, 1:]])
    return corners.any(0) & ~corners.all(0)


def box_counts(cells: np.ndarray, largest: int = 64) -> np.ndarray:
    """The number of boxes of 1, 2, 4, …, `largest` cells a side that hold a marked cell, (number of sizes,).

    The mean over four positions of the boxes, shifted along the diagonal by quarters of the largest.
    """
    counts = []
    for shift in range(0, largest, largest // 4):
        marked = np.pad(cells, [(shift, -(n + shift) % largest) for n in cells.shape])
        counts.append([marked.sum()])
        while len(counts[-1]) < largest.bit_length():
            rows, columns = marked.shape
            marked = marked.reshape(rows // 2, 2, columns // 2, 2).any((1, 3))
            counts[-1].append(marked.sum())
    return np.mean(counts, 0)


VARIABLES = {
    "outcome": Variable("outcome of each point, see papers.basins.Outcome", dims=("row", "column"), dtype="uint8"),
    "points": Variable("number of points of each outcome", dims=("kind",)),
    "point_steps": Variable("steps that all points took together"),
    "last_rise": Variable("last step at which f rose from a point that converges, the latest of all"),
    "eta": Variable("step size η"),
    "stable_area": Variable("area of U_η in the box"),
    "convergent_area": Variable("area of V_η in the box"),
    "stable_boxes": Variable("boxes of 1, 2, 4, … cells that the boundary of U_η crosses", dims=("size",)),
    "convergent_boxes": Variable("boxes of 1, 2, 4, … cells that the boundary of V_η crosses", dims=("size",)),
    "unstable_share": Variable("share of V_η outside U_η, on each of four grids", dims=("part",)),
    "pieces": Variable("connected components of the unstable starts of one minimiser"),
    "shift": Variable("length by which starts are shifted, over half the box"),
    "stable_moved": Variable("starts that the shift moves into U_η or out of it"),
    "convergent_moved": Variable("starts that the shift moves into V_η or out of it"),
}


class _OnPixels(Scan):
    """What the processes below share: they classify starts in a box."""

    variables: ClassVar = VARIABLES

    def __init__(self, landscape: Polynomial, step_size: float, box: Box, grid: int, steps: int):
        super().__init__(steps)
        self.landscape, self.step_size, self.box = landscape, step_size, box
        self.x, self.y = pixel_centres(box, grid)

    def classify(self, step_size: float, x: np.ndarray, y: np.ndarray) -> Basins:
        """`classify`, whose gradients are counted."""
        basins = classify(self.landscape, step_size, x, y)
        self.gradients += int(basins.steps.sum(dtype=np.int64))
        return basins


class BasinMap(_OnPixels):
    """`classify` for each pixel of a box, as a process whose step is a band of rows, from the bottom up.

    box, grid: see `pixel_centres`. steps: the number of bands, which divides grid. Every band observes the outcomes of
    its pixels (grid / steps, grid), how many there are of each, and how many steps its points took together.
    """

    def __init__(self, landscape, step_size, box, grid, steps):
        if grid % steps:
            raise ValueError(f"{steps} bands do not divide {grid} rows")
        super().__init__(landscape, step_size, box, grid, steps)

    def step(self) -> None:
        """Classify the next band."""
        band = slice(self.t * len(self.x) // self.steps, (self.t + 1) * len(self.x) // self.steps)
        basins = self.classify(self.step_size, self.x[band], self.y[band])
        self._row = {
            "outcome": basins.outcome,
            "points": np.bincount(basins.outcome.ravel(), minlength=len(Outcome)),
            "point_steps": int(basins.steps.sum(dtype=np.int64)),
            "last_rise": int(basins.last_rise[basins.outcome == Outcome.UNSTABLE].max(initial=0)),
        }
        self.t += 1


class BasinSizes(_OnPixels):
    """Areas of U_η and V_η in a box and box counts of their boundaries, at `steps` step sizes up to `step_size`.

    Step t classifies the whole grid at η = (t + 1) / steps · step_size.
    """

    def step(self) -> None:
        """Measure at the next step size."""
        self.t += 1
        eta = self.t / self.steps * self.step_size
        basins = self.classify(eta, self.x, self.y)
        stable, convergent = basins.outcome == Outcome.STABLE, basins.outcome <= Outcome.UNSTABLE
        left, right, bottom, top = self.box
        area = (right - left) * (top - bottom)
        self._row = {
            "eta": eta,
            "stable_area": area * stable.mean(),
            "convergent_area": area * convergent.mean(),
            "stable_boxes": box_counts(boundary(stable)),
            "convergent_boxes": box_counts(boundary(convergent)),
        }


class UnstableShares(_OnPixels):
    """What share of V_η is unstable, at `steps` step sizes from `smallest` to `step_size`.

    The starts, one at random in each pixel, fill a box that just holds V_η: it is found from the one before, beginning
    with the half-width of `box`. The four grids of every other row and column estimate the share independently.
    """

    carries = (*Scan.carries, "half")

    def __init__(self, landscape, step_size, box, grid, steps, smallest):
        super().__init__(landscape, step_size, box, grid, steps)
        self.half, self.step_sizes = box[1], np.linspace(smallest, step_size, steps).tolist()

    def step(self) -> None:
        """Measure at the next step size."""
        eta, n = self.step_sizes[self.t], len(self.x)
        self.half, rng = 2 * self.half, _random(4 * n * n * self.t)
        for _ in range(2):  # zooms in on what was found
            pixels = np.array(pixel_centres((-self.half, self.half, -self.half, self.half), n))
            x, y = pixels + rng.uniform(-self.half / n, self.half / n, (2, n, n))
            basins = self.classify(eta, x, y)
            convergent, unstable = basins.outcome <= Outcome.UNSTABLE, basins.outcome == Outcome.UNSTABLE
            self.half = float(np.maximum(abs(x), abs(y))[convergent].max() + 4 * self.half / n)
        parts = [np.s_[row::2, column::2] for row in range(2) for column in range(2)]
        self._row = {"eta": eta, "unstable_share": [unstable[p].sum() / convergent[p].sum() for p in parts]}
        self.t += 1


class UnstablePieces(_OnPixels):
    """The number of connected components of the unstable starts of the first minimiser that hold at least a thousandth
    of them, on grids of which each has twice as many pixels a side as the one before, up to `grid`."""

    def step(self) -> None:
        """Count on the next grid."""
        from scipy import ndimage  # which takes a while, and nothing else here asks for it

        self.t += 1
        every = 2 ** (self.steps - self.t)
        basins = self.classify(self.step_size, *pixel_centres(self.box, len(self.x) // every))
        labels, count = ndimage.label((basins.outcome == Outcome.UNSTABLE) & (basins.minimiser == 0))
        sizes = ndimage.sum_labels(labels > 0, labels, range(1, count + 1))
        self._row = {"pieces": int((sizes >= max(sizes.sum() / 1000, 4)).sum())}


class Uncertainty(_OnPixels):
    """How many of grid²/2 random starts a shift in a random direction moves into a set or out of it.

    The box is a square about the origin. Step t shifts by 10^(−(3 + t)/2) of its half.
    """

    @functools.cached_property
    def starts(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """x, y and their outcomes."""
        x, y = _random(0).uniform(-self.box[1], self.box[1], (2, self.x.size // 2))
        return x, y, classify(self.landscape, self.step_size, x, y).outcome

    def step(self) -> None:
        """Shift the starts by the next length."""
        x, y, before = self.starts
        shift, angle = 10 ** (-(3 + self.t) / 2), _random((2 + self.t) * x.size).uniform(0, 2 * np.pi, x.size)
        far = self.box[1] * shift
        basins = self.classify(self.step_size, x + far * np.cos(angle), y + far * np.sin(angle))
        self._row = {"shift": shift}
        for of, last in (("stable", Outcome.STABLE), ("convergent", Outcome.UNSTABLE)):
            self._row[f"{of}_moved"] = int(((before <= last) != (basins.outcome <= last)).sum())
        self.t += 1


def _random(drawn: int) -> np.random.Generator:
    """The generator of seed 0 after so many numbers: what a step draws is then the same in a run that was resumed."""
    return np.random.Generator(np.random.PCG64(0).advance(drawn))
