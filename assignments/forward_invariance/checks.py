"""The questions of assignment 2 and what a right answer to each is."""

import numpy as np
from grading import Mark, Question, marked, misshapen
from guides import experiment

CASES = 4  # polynomials


def value(a, theta):
    """a₀u² + a₁v² + a₂u²v + a₃u³ + a₄v³ + a₅(u⁴ + v⁴), θ = (u, v) from the minimiser."""
    u, v = np.moveaxis(theta, -1, 0)
    return a[0] * u**2 + a[1] * v**2 + a[2] * u**2 * v + a[3] * u**3 + a[4] * v**3 + a[5] * (u**4 + v**4)


def gradient(a, theta):
    u, v = np.moveaxis(theta, -1, 0)
    du = 2 * a[0] * u + 2 * a[2] * u * v + 3 * a[3] * u**2 + 4 * a[5] * u**3
    dv = 2 * a[1] * v + a[2] * u**2 + 3 * a[4] * v**2 + 4 * a[5] * v**3
    return np.stack([du, dv], -1)


def eigenvalues(a, theta):
    """The smallest and the largest of the Hessian, in closed form."""
    u, v = np.moveaxis(theta, -1, 0)
    uu = 2 * a[0] + 2 * a[2] * v + 6 * a[3] * u + 12 * a[5] * u**2
    vv = 2 * a[1] + 6 * a[4] * v + 12 * a[5] * v**2
    middle, half = (uu + vv) / 2, np.hypot((uu - vv) / 2, 2 * a[2] * u)
    return middle - half, middle + half


def circle(radius, n):
    angles = 2 * np.pi * np.arange(n) / n
    return radius * np.stack([np.cos(angles), np.sin(angles)], -1)


def polynomials(rng, fraction) -> dict:
    """Polynomials with a minimum somewhere, and steps of this range of fractions of the largest size."""
    a = np.column_stack([
        rng.uniform(0.6, 1, CASES), rng.uniform(1, 1.6, CASES), rng.uniform(0.8, 1.4, CASES),
        rng.uniform(-1, 1, CASES), rng.uniform(0.3, 1, CASES), rng.uniform(0.8, 1.2, CASES),
    ])  # fmt: skip
    largest = 1 / a[:, :2].max(1)  # 2/λ_max: the Hessian at the minimiser is diag(2a₀, 2a₁)
    return {"a": a, "minimiser": rng.uniform(-2, 2, (CASES, 2)), "step_size": rng.uniform(*fraction, CASES) * largest}


def trap(a, step_size, radii) -> float:
    """The largest of the radii up to which the eigenvalues of the Hessian lie in (0, 2/η)."""
    found = 0.0
    for radius in radii:
        low, high = eigenvalues(a, circle(radius, 1024))
        if low.min() <= 0 or high.max() >= 2 / step_size:
            break
        found = radius
    return found


def for_starts(rng) -> dict:
    drawn = polynomials(rng, (0.75, 0.95))
    radii = [
        max(0.3 * trap(a, eta, np.linspace(0.01, 1, 100)), 0.003)
        for a, eta in zip(drawn["a"], drawn["step_size"], strict=True)
    ]
    far = rng.uniform(-0.9, 0.9, (150, 2))
    near = rng.uniform(-0.004, 0.004, (20, 2))
    away = rng.uniform(2, 6, (20, 2))
    return drawn | {"radius": np.array(radii), "starts": np.concatenate([far, near, away]), "steps": 200}


def classified(a, step_size, radius, starts, steps):
    """0, 1, 2 as in the question, and whether rounding cannot change it."""
    theta, clear = starts.copy(), np.ones(len(starts), bool)
    arrived, falling = np.linalg.norm(theta, axis=1) < radius, np.ones(len(starts), bool)
    with np.errstate(all="ignore"):
        for _ in range(steps):
            after = theta - step_size * gradient(a, theta)
            change = value(a, after) - value(a, theta)
            falling &= arrived | (change < 0)
            clear &= arrived | (abs(change) > 1e-11) | ~np.isfinite(change)
            theta = after
            distance = np.linalg.norm(theta, axis=1)
            clear &= arrived | (abs(distance - radius) > 1e-9 * radius) | ~np.isfinite(distance)
            arrived |= distance < radius
    return np.where(arrived, np.where(falling, 0, 1), 2), clear


def check_starts(inputs, outputs) -> Mark:
    each = [
        classified(a, eta, radius, inputs["starts"], inputs["steps"])
        for a, eta, radius in zip(inputs["a"], inputs["step_size"], inputs["radius"], strict=True)
    ]
    expected, clear = (np.array(part) for part in zip(*each, strict=True))
    if fault := misshapen(outputs, "kinds", np.shape(expected)):
        return Mark(0.0, (fault,))
    right = (outputs["kinds"] == expected) | ~clear
    names = ("stable starts", "unstable starts that converge", "starts that do not converge")
    faults = []
    for kind, name in enumerate(names):
        mistaken = (~right & (expected == kind)).sum()
        few = mistaken <= 0.005 * (expected == kind).sum()
        faults.append(None if few else f"{mistaken} of the {name} are taken for others")
    return marked(*faults)


def for_sets(rng) -> dict:
    """The first two keep U, at the radius of the trap; the others have too large a step."""
    drawn = polynomials(rng, (0.3, 0.5))
    drawn["step_size"][2:] *= rng.uniform(1.15, 1.4, 2) / 0.4
    radii = [
        trap(a, eta, np.linspace(0.01, 0.5, 50)) for a, eta in zip(drawn["a"][:2], drawn["step_size"], strict=False)
    ]
    return drawn | {"radius": np.array([*radii, *rng.uniform(0.3, 0.5, 2)])}


def kept(a, step_size, radius, n):
    level = value(a, circle(radius, 1000)).min()

    def inside(theta):
        return (np.linalg.norm(theta, axis=-1) < radius) & (value(a, theta) < level)

    axis = np.linspace(-radius, radius, n)
    points = np.stack(np.meshgrid(axis, axis), -1).reshape(-1, 2)
    points = points[inside(points)]
    return inside(points - step_size * gradient(a, points)).mean()


def check_sets(inputs, outputs) -> Mark:
    expected = [
        kept(a, eta, r, 200) for a, eta, r in zip(*(inputs[n] for n in ("a", "step_size", "radius")), strict=True)
    ]
    if fault := misshapen(outputs, "shares", np.shape(expected)):
        return Mark(0.0, (fault,))
    right = abs(outputs["shares"] - expected) < 5e-3  # other grids of this size differ by less
    return marked(
        None if right[:2].all() else "wrong where U is invariant",
        None if right[2:].all() else "wrong where points leave U",
    )


def bumps(rng) -> dict:
    """Maps of the ball of radius 1 on a grid of 101² points, which proves of three that they stay, of six not."""
    n, spacing = 101, 2 / 100
    cell = -1 + spacing * (rng.integers(30, 70, 2) + 0.5)  # the middle of a cell of the grid
    angle = rng.uniform(0, 2 * np.pi)
    inner = 0.3 * np.array([np.cos(angle), np.sin(angle)])
    y = rng.choice([-5, -3, 3, 5]) / 100
    rim = np.array([np.sqrt(1 - y**2), y])  # closer to points of the grid outside the ball than to any inside
    high = rng.uniform(0.9, 1.1)
    scale, height, width, centre = zip(
        (rng.uniform(0.5, 0.9), 0.0, 1.0, inner),
        (rng.uniform(0.5, 0.9), 0.05, 0.5, inner),
        (rng.uniform(0.3, 0.5), 0.05, 0.04, inner),  # no contraction
        (rng.uniform(1.02, 1.2), 0.0, 1.0, inner),
        (0.5, 2 * high, 0.4 * spacing, cell),  # felt at no point of the grid
        (0.5, 2 * high, 0.4, inner),  # felt in the inside only
        (0.5, high, 5.0, inner),  # a contraction, but not towards a point near the middle
        (rng.uniform(0.15, 0.2), high, 1.05 * spacing, rim),  # felt at points of the grid outside the ball only
        (0.999, 0.0, 1.0, inner),
        strict=True,
    )
    scale, height, width = np.array(scale), np.array(height), np.array(width)
    lipschitz = scale + height / width
    lipschitz[-1] = 1.5  # a bound, too, and the grid is too coarse for it
    return {
        "r": 1.0, "n": n, "scale": scale, "height": height, "width": width, "centre": np.array(centre),
        "lipschitz": lipschitz,
    }  # fmt: skip


def check_proofs(inputs, outputs) -> Mark:
    expected = [True] * 3 + [False] * 6
    if fault := misshapen(outputs, "proved", np.shape(expected)):
        return Mark(0.0, (fault,))
    cases = (
        "a contraction is not proved", "a contraction with a slight push is not proved",
        "a map that is no contraction, but stays, is not proved",
        "'proved' for a map that expands",
        "'proved' for a map that leaves the ball between two points of the grid",
        "'proved' for a map that leaves the ball from its inside only",
        "'proved' for a contraction that leaves the ball",
        "'proved' for a map that leaves the ball between a point of the grid inside and one outside",
        "'proved' by a grid that is too coarse for it",
    )  # fmt: skip
    right = np.asarray(outputs["proved"]) == expected
    faults = tuple(None if ok else fault for ok, fault in zip(right, cases, strict=True))
    if not right[:3].any() or not right[3:].any():  # or 'never' would earn most of the marks
        return Mark(0.0, tuple(fault for fault in faults if fault))
    return marked(*faults)


def check_own(inputs, outputs) -> Mark:
    """A polynomial is data, so that everything about it is found out here."""
    terms, eta, starts = (
        np.asarray(outputs["terms"], float),
        float(outputs["step_size"]),
        np.asarray(outputs["starts"], float),
    )
    if terms.ndim != 2 or terms.shape[1] != 3 or len(terms) > 100 or starts.shape != (2, 2):
        return Mark(0.0, ("the terms or the starts do not have the form that was asked for",))
    if not np.isfinite(terms).all() or not np.isfinite(starts).all() or not 0 < eta < np.inf:
        return Mark(0.0, ("not all numbers are finite, or the step size is not positive",))
    coefficients, powers = terms[:, 0], terms[:, 1:]
    if (powers < 0).any() or (powers > 20).any() or (powers != powers.round()).any():
        return Mark(0.0, ("powers are integers from 0 to 20",))
    of = {}
    for c, (p, q) in zip(coefficients, powers, strict=True):
        of[p, q] = of.get((p, q), 0) + c
    of = {power: c for power, c in of.items() if c}
    xx, xy, yy = 2 * of.get((2, 0), 0), of.get((1, 1), 0), 2 * of.get((0, 2), 0)
    low, high = np.linalg.eigvalsh([[xx, xy], [xy, yy]])
    if of.get((1, 0)) or of.get((0, 1)) or low <= 0:
        return Mark(0.0, ("0 is no stationary point with a positive definite Hessian",))
    if max(p + q for p, q in of) < 3:
        return Mark(0.0, ("the polynomial has no term of degree 3 or more",))
    for powers_of_paper in ({(2, 0), (0, 2), (2, 1), (3, 0), (0, 3)}, {(2, 0), (0, 2), (2, 1), (4, 0), (0, 4)}):
        if set(of) - {(0, 0)} == powers_of_paper and len({round(of[p], 9) for p in powers_of_paper}) == 1:
            return Mark(0.0, ("this is a function of the paper, or a multiple of one",))
    if eta >= 2 / high:
        return Mark(0.0, (f"the step size is not below the largest one, {2 / high:.3g}",))

    def f(x, y):
        return sum(c * x**p * y**q for (p, q), c in of.items())

    def step(x, y):
        dx = sum(c * p * x ** (p - 1) * y**q for (p, q), c in of.items() if p)
        dy = sum(c * q * x**p * y ** (q - 1) for (p, q), c in of.items() if q)
        return x - eta * dx, y - eta * dy

    faults = []
    for (x, y), stable in zip(starts, (True, False), strict=True):
        name, values, far = "the stable start" if stable else "the unstable start", [], np.hypot(x, y) > 0.05
        with np.errstate(all="ignore"):
            for _ in range(20_000):
                values.append(f(x, y))
                if not np.hypot(x, y) > 1e-5:  # arrived, or not a number
                    break
                x, y = step(x, y)
        if not np.hypot(x, y) <= 1e-5:
            faults.append(f"{name} does not converge to 0 within 20,000 steps")
        elif stable and not far:
            faults.append("the stable start lies in the ball of radius 0.05")
        elif (np.diff(values) > 1e-12).any() == stable:
            faults.append(f"from {name} f {'rises at some step' if stable else 'falls at every step'}")
        else:
            faults.append(None)
    return marked(*faults)


QUESTIONS = [
    Question("q1", 3, for_starts, check_starts),
    Question("q2", 2, for_sets, check_sets),
    Question("q3", 3, bumps, check_proofs),
    Question("q4", 4, lambda rng: {}, check_own),
    Question(
        "written", 5,
        guide="(a) 2: the mean value form ∇f = A(θ − θ*) with eigenvalues of A in [μ, M], 1; contraction and "
        "induction, 1. Quoting Banach without the constant: 1. (b) 1: Taylor along the step with the bound M, "
        "and why the segment stays in B. (c) 1: 1 − ημ > 1, an expanding direction. (d) 1: whatever converges "
        "enters B, after which f falls.",
    ),
    experiment(
        "What one sees. Fractions 0.5, 0.7, 0.9: f₁ has no unstable start at the first two, at 0.9 one of ten that "
        "converge; halving leads to a little below 0.88. The verdicts of 'disconnected' and of theorem 3 change "
        "because they are judged at the last and at the last but one of the fractions: at 0.9 the unstable starts "
        "of f₁ are one piece. No theorem falls: from one start of f₃ a step leads so close to 0 that f₃ falls by "
        "less than rounding shows, and neighbours count as unstable. Two controls do not fail, since the smallest "
        "fraction is no small one any more. Figure 3: from (0.1, 2.5) f falls at every step up to a step size a "
        "little above 0.16, close to what the eigenvalue at the start foretells, and rises at some step beyond; "
        "from (1.5, 2) it still falls at 0.3. No verdict changes: that of figure 3 is judged at step sizes of its "
        "own. A grid of 128: of f₁'s unstable starts two pieces become one, and 'disconnected' is judged partly; no "
        "other verdict hangs on it.",
    ),
]  # fmt: skip
