"""Sets that gradient descent never leaves: constructed, then proved with interval arithmetic (Chen et al. 2024).

`construct` follows the proofs of Lemma 1 and Theorem 2: around the minimisers it finds a neighbourhood on which the
largest curvature is at most M < 2/η, a smaller one from which no step leads out of the first, and in that the set U
below the level f*. It works on a sample of points, so it may be wrong. `certify` then proves the few inequalities
from which F(U) ⊆ U follows, for all points at once: it encloses them on boxes in arb's arithmetic, which rounds
outwards, and halves a box until they hold on all of it.
"""

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from flint import arb

from eoslib.problems.landscapes import Polynomial

RAYS, RINGS = 128, 64  # of the samples that `construct` looks at
ROOM = 0.95  # of a radius found on a sample, so that the bound it belongs to is not tight
MAX_BOXES, MAX_DEPTH = 100_000, 60  # where a proof is given up


@dataclass(frozen=True)
class Minima:
    """A compact set S of minimisers with its neighbourhoods N_r = {d ≤ r²}.

    gap: the function d(x, y) ≥ 0, plain arithmetic, zero on S only; for a point the squared distance. at: (r, angle)
    to the points (x, y) with d = r², on the one side of S for r > 0, on the other for r < 0. centre, size: N_r lies
    in the square about `centre` of half-width `size` + r.
    """

    gap: Callable
    at: Callable
    centre: tuple[float, float]
    size: float


def single(x: float, y: float) -> Minima:
    """A single minimiser, with balls for neighbourhoods."""
    return Minima(
        gap=lambda u, v: (u - x) * (u - x) + (v - y) * (v - y),
        at=lambda r, angle: (x + r * np.cos(angle), y + r * np.sin(angle)),
        centre=(x, y),
        size=0,
    )


@dataclass(frozen=True)
class Construction:
    """What the proofs of Lemma 1 and Theorem 2 construct for one function, its minimisers and one step size.

    bound: M. outer: t₁, with λ_max ≤ M on N_{t₁}. radius: t′, from where no step of size α ≤ η leads out of N_{t₁}.
    level: f*, not above f on the boundary of N_{t′}. U = {d < t′², f < f*}.
    """

    landscape: Polynomial
    minima: Minima
    step_size: float
    bound: float
    outer: float
    radius: float
    level: float

    def contains(self, x, y):
        """Whether points lie in U."""
        return (self.minima.gap(x, y) < self.radius**2) & (self.landscape.value(x, y) < self.level)


def largest_curvature(landscape: Polynomial, minima: Minima, r: float) -> float:
    """g(r), equation (10): the largest eigenvalue of ∇²f on N_r, on a sample."""
    rho = r * np.linspace(-1, 1, 2 * RINGS + 1)[:, None]
    points = minima.at(rho, np.linspace(0, 2 * np.pi, RAYS, endpoint=False))
    return float(landscape.eigenvalues(*points)[1].max())


def construct(landscape: Polynomial, minima: Minima, step_size: float) -> Construction:
    """The construction of Lemma 1 and Theorem 2 (Chen et al. 2024, equations 10 to 24), as large as a sample allows.

    M is the middle of (λ_max, 2/η), the interval (19) leaves open: towards its left end the neighbourhood shrinks to
    nothing, towards its right end C does. That no other stationary point is near is ensured by f rising on every
    ray away from S. Raises ValueError unless 0 < step_size < 2/λ_max everywhere on S, condition (6).
    """
    angle = np.linspace(0, 2 * np.pi, RAYS, endpoint=False)
    ring = np.linspace(0, 1, RINGS + 1)[:, None]
    sharpness = largest_curvature(landscape, minima, 0)
    bound = (sharpness + 2 / step_size) / 2 if step_size > 0 else 0.0

    def tame(r: float) -> bool:
        rays = [landscape.value(*minima.at(side * ring, angle)) for side in (-r, r)]
        return all((np.diff(f, axis=0) > 0).all() for f in rays) and largest_curvature(landscape, minima, r) <= bound

    outer = ROOM * largest_radius(tame, 2.0) if bound > sharpness else 0
    if outer == 0:
        raise ValueError(f"step_size must be positive and less than {2 / sharpness:.6g}, 2/λ_max, got {step_size}")

    def stays(r: float) -> bool:
        x, y = minima.at(np.concatenate([-r * ring, r * ring]), angle)
        gx, gy = landscape.gradient(x, y)
        return all((minima.gap(x - a * gx, y - a * gy) <= outer**2).all() for a in np.linspace(0, step_size, 9))

    radius = ROOM * largest_radius(stays, 2.0)
    lowest = landscape.value(*minima.at(0, angle)).min()
    angle = np.linspace(0, 2 * np.pi, 32 * RAYS)  # dense, lest a narrow valley slips through
    rim = min(landscape.value(*minima.at(r, angle)).min() for r in (-radius, radius))
    return Construction(landscape, minima, step_size, bound, outer, radius, lowest + ROOM * (rim - lowest))


@dataclass(frozen=True)
class Proof:
    """Whether a statement was proved on all boxes of a region, and on how many; depth: of halvings of one box.

    obstacle: the box (an interval for each coordinate) at which it was given up, None if proved. refuted: the
    middle of that box is a counterexample; otherwise the box merely resists.
    """

    proved: bool
    boxes: int
    depth: int
    obstacle: tuple[tuple[float, float], ...] | None = None
    refuted: bool = False


def prove(box: tuple[arb, ...], inside: Callable, margins: Callable) -> Proof:
    """Prove that all `margins` are positive at every point of `box` at which `inside` is not negative.

    Both take the coordinates as arb intervals; `inside` returns one, `margins` several. A box that is neither outside
    nor proved is halved along its widest side.
    """
    boxes = deepest = 0
    order = random.Random(0)  # always the same half first would lead along an edge, past all counterexamples
    todo = [(box, 0)]
    while todo:
        box, depth = todo.pop()
        if inside(*box) < 0:
            continue
        boxes, deepest = boxes + 1, max(deepest, depth)
        if all(margin > 0 for margin in margins(*box)):
            continue
        middle = [side.mid() for side in box]
        refuted = inside(*middle) > 0 and any(margin < 0 for margin in margins(*middle))
        if refuted or depth == MAX_DEPTH or boxes >= MAX_BOXES:
            obstacle = tuple((float(side.lower()), float(side.upper())) for side in box)
            return Proof(False, boxes, deepest, obstacle, refuted)
        side = max(range(len(box)), key=lambda i: box[i].rad())
        radius = box[side].rad() / 2
        halves = [arb(middle[side] - radius, radius), arb(middle[side] + radius, radius)]
        order.shuffle(halves)
        todo += [((*box[:side], half, *box[side + 1 :]), depth + 1) for half in halves]
    return Proof(True, boxes, deepest)


def certify(construction: Construction, only: Sequence[str] = ("curvature", "step", "level")) -> dict[str, Proof]:
    """Proofs of the statements from which Lemma 1 and Theorem 2 follow for this construction, or only of some.

    - curvature: λ_max(∇²f) ≤ M on N_{t₁}, and ηM < 2
    - step: θ − α∇f(θ) ∈ N_{t₁} for all θ ∈ N_{t′} and α ∈ [0, η]
    - level: f > f* where d = t′²

    By Taylor's formula (9), the first two give descent (8) with C = 1 − ηM/2 > 0. A step from U could leave U only by
    crossing the boundary of N_{t′}, where f > f*; but f has not risen above its value at θ, which is below f*. So
    F(U) ⊆ U, the argument of the proof of Theorem 2.
    """
    f, d, eta = construction.landscape, construction.minima.gap, construction.step_size
    M, outer, radius = (arb(a) for a in (construction.bound, construction.outer, construction.radius))
    large, small = _square(construction, construction.outer), _square(construction, construction.radius)
    tau = outer * arb(0.5, 0.5)  # α = ητ/t₁, so that all sides of a box are lengths of one scale
    statements = {
        "curvature": (
            large, lambda x, y: outer * outer - d(x, y), lambda x, y: [*_above(f.hessian(x, y), M), 2 - eta * M],
        ),
        "step": (
            (*small, tau),
            lambda x, y, _: radius * radius - d(x, y),
            lambda x, y, tau: [outer * outer - d(*_step(f, x, y, eta * tau / outer))],
        ),
        "level": (
            small, lambda x, y: -abs(d(x, y) - radius * radius), lambda x, y: [_value(f, x, y) - construction.level],
        ),
    }  # fmt: skip
    return {name: prove(*statements[name]) for name in only}


def certify_directly(construction: Construction) -> dict[str, Proof]:
    """A second proof of F(U) ⊆ U for a single minimiser, which uses neither Lemma 1 nor Theorem 2.

    - core: a ball K about the centre c lies in U, all eigenvalues on it lie in [μ, 2/η − μ], μ > 0, and ‖∇f(c)‖ < μ ·
      its radius. So F contracts K into itself, and K holds exactly one stationary point, a strict minimum.
    - image: each box that meets U \\ K is mapped into U
    - alone: ⟨∇f(θ), θ − c⟩ > 0 on N_{t₁} \\ K, so that no other stationary point is near, as Lemma 2 requires

    c is the minimiser rounded to floats: nothing is lost, since U is an open set that contains the minimiser.
    """
    f, d, eta = construction.landscape, construction.minima.gap, arb(construction.step_size)
    outer, radius, level = (arb(a) for a in (construction.outer, construction.radius, construction.level))
    large, small = _square(construction, construction.outer), _square(construction, construction.radius)
    cx, cy = construction.minima.centre
    core, mu = (arb(a) for a in _core(construction))
    gx, gy = f.gradient(arb(cx), arb(cy))

    def in_core(x, y):
        return core * core - d(x, y)

    def contracts(x, y):
        hessian = f.hessian(x, y)
        bounds = _above(hessian, 2 / eta - mu) + _above([-h for h in hessian], -mu)
        return [*bounds, mu, level - _value(f, x, y), radius - core, mu * mu * core * core - gx * gx - gy * gy]

    def in_u(x, y):  # where both are positive
        return [radius * radius - d(x, y), level - _value(f, x, y)]

    def in_u_not_core(x, y):
        inside, below = in_u(x, y)
        return inside.min(below).min(-in_core(x, y))

    def outwards(x, y):
        gx, gy = f.gradient(x, y)
        return [gx * (x - cx) + gy * (y - cy)]

    return {
        "core": prove(small, in_core, contracts),
        "image": prove(small, in_u_not_core, lambda x, y: in_u(*_step(f, x, y, eta))),
        "alone": prove(large, lambda x, y: (outer * outer - d(x, y)).min(-in_core(x, y)), outwards),
    }


def certify_minimum(landscape: Polynomial, x: float, y: float, sharpness: float) -> Proof:
    """Prove that within 1e-9 of (x, y) lies exactly one stationary point, a strict minimum, and that λ_max there is
    `sharpness` to 1e-6.

    On a square of that half-width all eigenvalues are at least μ > 0 and ‖∇f(c)‖ < μ · 1e-9 at its centre c. So f is
    strictly convex on it, and ∇f points outwards on the inscribed circle.
    """
    reach, tolerance = arb("1e-9"), arb("1e-6")
    mu = arb(float(landscape.eigenvalues(x, y)[0])) / 2
    gx, gy = landscape.gradient(arb(x), arb(y))

    def margins(u, v):
        xx, xy, yy = landscape.hessian(u, v)
        middle, half = (xx + yy) / 2, (xx - yy) / 2
        spread = (half * half + xy * xy).nonnegative_part().sqrt()
        off = middle + spread - sharpness
        return [mu, middle - spread - mu, tolerance - off, tolerance + off, mu * mu * reach * reach - gx * gx - gy * gy]

    return prove((arb(x, reach), arb(y, reach)), lambda u, v: arb(1), margins)


def certify_lowest(landscape: Polynomial, half: float) -> Proof:
    """Prove that f is larger than at its minimisers everywhere else in the square of this half-width about the origin.

    f exceeds its value at the first of them, by more than rounding, outside balls about all of them on which ∇²f is
    proved to be positive definite, so that each holds one stationary point at most.
    """
    centres = [(arb(x), arb(y)) for x, y in landscape.minimisers]
    lowest = landscape.value(*centres[0]) + arb("1e-12")

    def convex(r: float) -> bool:
        x, y = single(*landscape.minimisers[0]).at(r, np.linspace(0, 2 * np.pi, RAYS))
        return bool((landscape.eigenvalues(x, y)[0] > 0).all())

    r = arb(largest_radius(convex, 2.0) / 2)

    def margins(x, y):
        if min(float(((x - u) * (x - u) + (y - v) * (y - v) - r * r).upper()) for u, v in centres) < 0:
            return _above([-h for h in landscape.hessian(x, y)], arb(0))
        return [_value(landscape, x, y) - lowest]

    return prove((arb(0, half), arb(0, half)), lambda x, y: arb(1), margins)


def _core(construction: Construction) -> tuple[float, float]:
    """Radius of a ball and μ such that all eigenvalues on it lie in [μ, 2/η − μ] and it lies in U, on a sample."""
    f, minima, eta = construction.landscape, construction.minima, construction.step_size
    smallest, largest = f.eigenvalues(*minima.centre)
    mu = min(smallest, 2 / eta - largest) / 2
    angle, ring = np.linspace(0, 2 * np.pi, RAYS), np.linspace(0, 1, RINGS)[:, None]

    def holds(r: float) -> bool:
        x, y = minima.at(r * ring, angle)
        smallest, largest = f.eigenvalues(x, y)
        return bool(construction.contains(x, y).all() and smallest.min() >= mu and largest.max() <= 2 / eta - mu)

    return largest_radius(holds, 2.0) / 2, mu


def _about_middle(f: Polynomial, x: arb, y: arb) -> tuple:
    """The middle of a box, the box about its middle, ∇f in the middle, and an enclosure of ∇²f on the box."""
    middle = x.mid(), y.mid()
    return middle, (x - middle[0], y - middle[1]), f.gradient(*middle), f.hessian(x, y)


def _value(f: Polynomial, x: arb, y: arb) -> arb:
    """Encloses f on a box by Taylor's formula; f.value takes intervals for independent, and is looser on small ones."""
    middle, (u, v), (gx, gy), (xx, xy, yy) = _about_middle(f, x, y)
    return f.value(*middle) + gx * u + gy * v + (xx * u * u + 2 * xy * u * v + yy * v * v) / 2


def _step(f: Polynomial, x: arb, y: arb, alpha: arb) -> tuple[arb, arb]:
    """Encloses θ − α∇f(θ) on a box by the mean value theorem."""
    (mx, my), (u, v), (gx, gy), (xx, xy, yy) = _about_middle(f, x, y)
    new_x = mx - alpha * gx + (1 - alpha * xx) * u - alpha * xy * v
    return new_x, my - alpha * gy + (1 - alpha * yy) * v - alpha * xy * u


def _square(construction: Construction, r: float) -> tuple[arb, arb]:
    """The square that holds N_r."""
    half = construction.minima.size + arb(r)
    return tuple(arb(c, half.upper()) for c in construction.minima.centre)


def _above(hessian, bound) -> list:
    """Positive if and only if bound·I − H is positive definite."""
    xx, xy, yy = hessian
    return [bound - xx, (bound - xx) * (bound - yy) - xy * xy]


def largest_radius(holds: Callable[[float], bool], most: float) -> float:
    """The largest radius r < most (to 1 %) at which `holds`, which holds at all smaller ones too; 0 if below 1e-9."""
    low, high = 0.0, most
    while high - low > 0.01 * high and high > 1e-9:
        middle = (low + high) / 2
        low, high = (middle, high) if holds(middle) else (low, middle)
    return low
