"""The hidden tests of the course's assignments: right answers get full marks, however they are written, and the
slips that students make cost some."""

import re
import shlex
from itertools import pairwise
from pathlib import Path

import grading
import make
import numpy as np
import pytest
import torch
from scipy.sparse.linalg import LinearOperator, eigsh

from eoslib.chapter import presets

ASSIGNMENTS = Path(__file__).parents[2] / "assignments"
ANSWERS: dict[bool, list] = {True: [], False: []}  # right and wrong ones: (assignment, question, what, namespace)


def answer(assignment, question, *, right):
    """Collects a function that answers a question; its docstring says how."""

    def collect(function):
        ANSWERS[right].append((assignment, question, function.__doc__, {function.__name__: function}))
        return function

    return collect


def right(assignment, question):
    return answer(assignment, question, right=True)


def wrong(assignment, question):
    return answer(assignment, question, right=False)


def mark(assignment, question, namespace, seed="a"):
    """The mark of an answer, without a sandbox."""
    with np.errstate(all="ignore"):
        return make.mark(ASSIGNMENTS / assignment, question, namespace, seed)


# --- 1: unstable convergence ---------------------------------------------------------------------------------

unstable = "unstable_convergence"


@right(unstable, "q1")
def relative_progress(f, gradient, theta, step_size):
    """by the norm of the step"""
    v = step_size * gradient(theta)
    return (f(theta - v) - f(theta)) * step_size / np.linalg.norm(v) ** 2


@wrong(unstable, "q1")
def relative_progress(f, gradient, theta, step_size):
    """the norm is not squared"""
    g = gradient(theta)
    return (f(theta - step_size * g) - f(theta)) / (step_size * np.linalg.norm(g))


@wrong(unstable, "q1")
def relative_progress(f, gradient, theta, step_size):
    """without η"""
    g = gradient(theta)
    return (f(theta - step_size * g) - f(theta)) / (g @ g)


@wrong(unstable, "q1")
def relative_progress(f, gradient, theta, step_size):
    """the change has the wrong sign"""
    g = gradient(theta)
    return (f(theta) - f(theta - step_size * g)) / (step_size * (g @ g))


@wrong(unstable, "q1")
def relative_progress(f, gradient, theta, step_size):
    """by relation (5), which is exact for quadratics only"""
    v = step_size * gradient(theta)
    return -1 + step_size / 2 * (v @ (gradient(theta) - gradient(theta - v))) / (v @ v)


@right(unstable, "q2")
def directional_smoothness(gradient, theta, v):
    """by the unit vector"""
    length = np.sqrt((v**2).sum())
    return (v / length) @ (gradient(theta) - gradient(theta - v)) / length


@wrong(unstable, "q2")
def directional_smoothness(gradient, theta, v):
    """a step in the other direction"""
    return v @ (gradient(theta + v) - gradient(theta)) / (v @ v)


@wrong(unstable, "q2")
def directional_smoothness(gradient, theta, v):
    """the norm is not squared"""
    return v @ (gradient(theta) - gradient(theta - v)) / np.linalg.norm(v)


@wrong(unstable, "q2")
def directional_smoothness(gradient, theta, v):
    """the norm of the change instead of the component along v"""
    return np.linalg.norm(gradient(theta) - gradient(theta - v)) / np.linalg.norm(v)


@wrong(unstable, "q2")
def directional_smoothness(gradient, theta, v):
    """a half too many, as in Taylor's formula"""
    return v @ (gradient(theta) - gradient(theta - v)) / (v @ v) / 2


def _descend(f, gradient, theta, step_size, steps, observe):
    """observe: what is noted of η, f before and after a step, and the gradients there."""
    rows = []
    for _ in range(steps):
        g = gradient(theta)
        after = theta - step_size * g
        rows.append(observe(step_size, f(theta), f(after), g, gradient(after)))
        theta = after
    return dict(zip(("loss", "relative_progress", "directional_smoothness"), np.array(rows).T, strict=True))


def _observed(eta, a, b, g, h):
    return a, (b - a) / eta / (g @ g), g @ (g - h) / eta / (g @ g)


@right(unstable, "q3")
def descend(*given):
    """with the gradients evaluated twice"""
    return _descend(*given, _observed)


@wrong(unstable, "q3")
def descend(*given):
    """the losses after the steps"""
    return _descend(*given, lambda eta, a, b, g, h: (b, (b - a) / eta / (g @ g), g @ (g - h) / eta / (g @ g)))


@wrong(unstable, "q3")
def descend(*given):
    """the norm of the next gradient"""
    return _descend(*given, lambda eta, a, b, g, h: (a, (b - a) / eta / (h @ h), g @ (g - h) / eta / (g @ g)))


@wrong(unstable, "q3")
def descend(*given):
    """v = ∇f instead of η∇f"""
    return _descend(*given, lambda eta, a, b, g, h: (a, (b - a) / eta / (g @ g), g @ (g - h) / (g @ g)))


@wrong(unstable, "q3")
def descend(*given):
    """one value too many"""
    *given, steps = given
    return _descend(*given, steps + 1, _observed)


@right(unstable, "q4")
def sharpness(hvp, p):
    """the whole Hessian, from p products"""
    return np.linalg.eigvalsh(np.array([hvp(e) for e in np.eye(p)]))[-1]


@right(unstable, "q4")
def sharpness(hvp, p):
    """power iteration, shifted by the eigenvalue that is the largest in modulus"""

    def dominant(product):
        v = np.random.default_rng(1).standard_normal(p)
        for _ in range(900):
            w = product(v)
            v = w / np.linalg.norm(w)
        return v @ product(v)

    shift = abs(dominant(hvp))
    return dominant(lambda v: hvp(v) + shift * v) - shift


@wrong(unstable, "q4")
def sharpness(hvp, p):
    """plain power iteration"""
    v = np.random.default_rng(0).standard_normal(p)
    for _ in range(1000):
        w = hvp(v)
        v = w / np.linalg.norm(w)
    return v @ hvp(v)


@wrong(unstable, "q4")
def sharpness(hvp, p):
    """the largest in modulus, by its modulus"""
    return abs(eigsh(LinearOperator((p, p), matvec=hvp, dtype=float), k=1, which="LM", return_eigenvectors=False)[0])


@wrong(unstable, "q4")
def sharpness(hvp, p):
    """too few iterations"""
    v = np.random.default_rng(0).standard_normal(p)
    for _ in range(3):
        v = hvp(v) / np.linalg.norm(hvp(v))
    return v @ hvp(v)


@wrong(unstable, "q4")
def sharpness(hvp, p):
    """the Rayleigh quotient of a random vector"""
    v = np.random.default_rng(0).standard_normal(p)
    return v @ hvp(v) / (v @ v)


@right(unstable, "q5")
def onset(steps, sharpnesses, step_size):
    """by a loop"""
    return next((int(t) for t, s in zip(steps, sharpnesses, strict=True) if s >= 2 / step_size), -1)


@wrong(unstable, "q5")
def onset(steps, sharpnesses, step_size):
    """argmax, which is 0 where it is never reached"""
    return int(steps[np.argmax(sharpnesses >= 2 / step_size)])


@wrong(unstable, "q5")
def onset(steps, sharpnesses, step_size):
    """the index instead of the step"""
    reached = np.flatnonzero(sharpnesses >= 2 / step_size)
    return int(reached[0]) if len(reached) else -1


@wrong(unstable, "q5")
def onset(steps, sharpnesses, step_size):
    """beyond 2/η instead of reaching it"""
    reached = np.flatnonzero(sharpnesses > 2 / step_size)
    return int(steps[reached[0]]) if len(reached) else -1


@wrong(unstable, "q5")
def onset(steps, sharpnesses, step_size):
    """a failed measurement taken for one"""
    below = sharpnesses < 2 / step_size
    return -1 if below.all() else int(steps[np.argmin(below)])


# --- 2: forward invariance -----------------------------------------------------------------------------------

invariance = "forward_invariance"
CIRCLE = np.stack([np.cos(np.arange(64) * np.pi / 32), np.sin(np.arange(64) * np.pi / 32)], -1)


def _path(gradient, step_size, theta, steps):
    path = [theta]
    for _ in range(steps):
        path.append(path[-1] - step_size * gradient(path[-1]))
    return np.array(path)


@right(invariance, "q1")
def classify(f, gradient, minimiser, radius, step_size, starts, steps):
    """one start after the other, until it arrives"""
    kinds = []
    for theta in starts:
        kind, falling = 2, True
        for _ in range(steps + 1):
            if np.linalg.norm(theta - minimiser) < radius:
                kind = 0 if falling else 1
                break
            after = theta - step_size * gradient(theta)
            if not abs(after).max() < 1e6:
                break
            falling = falling and f(after) < f(theta)
            theta = after
        kinds.append(kind)
    return kinds


@wrong(invariance, "q1")
def classify(f, gradient, minimiser, radius, step_size, starts, steps):
    """stable if f is lower at the end than at the start"""
    path = _path(gradient, step_size, starts, steps)
    near = np.linalg.norm(path[-1] - minimiser, axis=1) < radius
    return np.where(near, np.where(f(path[-1]) <= f(path[0]), 0, 1), 2)


@wrong(invariance, "q1")
def classify(f, gradient, minimiser, radius, step_size, starts, steps):
    """in the trap, too, f has to fall, against rounding"""
    path = _path(gradient, step_size, starts, steps)
    near = np.linalg.norm(path[-1] - minimiser, axis=1) < radius
    return np.where(near, np.where((np.diff(f(path), axis=0) < 0).all(0), 0, 1), 2)


@wrong(invariance, "q1")
def classify(f, gradient, minimiser, radius, step_size, starts, steps):
    """the trap lies around 0"""
    path = _path(gradient, step_size, starts, steps)
    near = np.linalg.norm(path, axis=2) < radius
    falls = (np.diff(f(path), axis=0) < 0) | np.logical_or.accumulate(near, 0)[:-1]
    return np.where(near.any(0), np.where(falls.all(0), 0, 1), 2)


@wrong(invariance, "q1")
def classify(f, gradient, minimiser, radius, step_size, starts, steps):
    """stable and unstable exchanged"""
    path = _path(gradient, step_size, starts, steps)
    near = np.linalg.norm(path - minimiser, axis=2) < radius
    falls = (np.diff(f(path), axis=0) < 0) | np.logical_or.accumulate(near, 0)[:-1]
    return np.where(near.any(0), np.where(falls.all(0), 1, 0), 2)


def _share(f, gradient, minimiser, radius, step_size, n, inside, of):
    axis = np.linspace(-radius, radius, n)
    points = minimiser + np.stack(np.meshgrid(axis, axis), -1).reshape(-1, 2)
    level = f(minimiser + radius * CIRCLE).min()
    points = points[of(points, level)]
    return inside(points - step_size * gradient(points), level).mean()


def _in_u(f, minimiser, radius):
    return lambda points, level: (np.linalg.norm(points - minimiser, axis=1) < radius) & (f(points) < level)


@right(invariance, "q2")
def share_kept(f, gradient, minimiser, radius, step_size, n=200):
    """a level from 64 points of the circle, and a finer grid"""
    u = _in_u(f, minimiser, radius)
    return _share(f, gradient, minimiser, radius, step_size, 2 * n, u, u)


@wrong(invariance, "q2")
def share_kept(f, gradient, minimiser, radius, step_size, n=200):
    """the ball, without the level"""

    def ball(points, level):
        return np.linalg.norm(points - minimiser, axis=1) < radius

    return _share(f, gradient, minimiser, radius, step_size, n, ball, ball)


@wrong(invariance, "q2")
def share_kept(f, gradient, minimiser, radius, step_size, n=200):
    """of all points of the grid"""
    u = _in_u(f, minimiser, radius)
    return _share(f, gradient, minimiser, radius, step_size, n, u, lambda points, level: points[:, 0] == points[:, 0])


@wrong(invariance, "q2")
def share_kept(f, gradient, minimiser, radius, step_size, n=200):
    """the images are asked for the ball only"""
    return _share(
        f,
        gradient,
        minimiser,
        radius,
        step_size,
        n,
        lambda points, _: np.linalg.norm(points - minimiser, axis=1) < radius,
        _in_u(f, minimiser, radius),
    )


@wrong(invariance, "q2")
def share_kept(f, gradient, minimiser, radius, step_size, n=200):
    """a step uphill"""
    u = _in_u(f, minimiser, radius)
    return _share(f, gradient, minimiser, radius, -step_size, n, u, u)


def _grid(r, n):
    axis = np.linspace(-r, r, n)
    return np.stack(np.meshgrid(axis, axis), -1).reshape(-1, 2), axis[1] - axis[0]


@right(invariance, "q3")
def proves_invariance(F, r, lipschitz, n):
    """with a whole diagonal for the distance: more cautious than needed, and true where there is room"""
    points, spacing = _grid(r, n)
    points = points[np.linalg.norm(points, axis=1) <= r + spacing]
    return np.linalg.norm(F(points), axis=1).max() + lipschitz * spacing <= r


@right(invariance, "q3")
def proves_invariance(F, r, lipschitz, n):
    """with the points whose cells reach the ball, and half a diagonal"""
    points, spacing = _grid(r, n)
    points = points[np.linalg.norm(np.maximum(abs(points) - spacing / 2, 0), axis=1) <= r]
    return np.linalg.norm(F(points), axis=1).max() + lipschitz * spacing / np.sqrt(2) <= r


@wrong(invariance, "q3")
def proves_invariance(F, r, lipschitz, n):
    """without the points of the grid that lie just outside the ball"""
    points, spacing = _grid(r, n)
    points = points[np.linalg.norm(points, axis=1) <= r]
    return np.linalg.norm(F(points), axis=1).max() + lipschitz * spacing / np.sqrt(2) <= r


@wrong(invariance, "q3")
def proves_invariance(F, r, lipschitz, n):
    """a sample without a margin"""
    points, _ = _grid(r, n)
    return (np.linalg.norm(F(points[np.linalg.norm(points, axis=1) <= r]), axis=1) <= r).all()


@wrong(invariance, "q3")
def proves_invariance(F, r, lipschitz, n):
    """the boundary only"""
    spacing = 2 * r / (n - 1)
    return np.linalg.norm(F(r * CIRCLE), axis=1).max() + lipschitz * spacing <= r


@wrong(invariance, "q3")
def proves_invariance(F, r, lipschitz, n):
    """never"""
    return False


@wrong(invariance, "q3")
def proves_invariance(F, r, lipschitz, n):
    """whether F contracts"""
    return lipschitz < 1


def own(terms, step_size, stable, unstable):
    return {"own_terms": terms, "own_step_size": step_size, "own_stable_start": stable, "own_unstable_start": unstable}


F1 = [(1, 2, 0), (1, 0, 2), (1, 2, 1), (1, 3, 0), (1, 0, 3)]
OWN = [(1.0, 2, 0), (1.5, 0, 2), (1.2, 2, 1), (0.8, 4, 0), (1.0, 0, 4)]
ANSWERS[True] += [
    (
        invariance,
        "q4",
        "with a constant and a term twice",
        own([*OWN[1:], (7, 0, 0), (0.5, 2, 0), (0.5, 2, 0)], 0.6, (0.1, 0.1), (0.6, 0.15)),
    )
]
ANSWERS[False] += [
    (invariance, "q4", "a function of the paper", own([(3 * c, p, q) for c, p, q in F1], 0.3, (0.06, 0.0), (0.2, 0.2))),
    (invariance, "q4", "the starts exchanged", own(OWN, 0.6, (0.6, 0.15), (0.1, 0.1))),
    (invariance, "q4", "too large a step size", own(OWN, 0.7, (0.1, 0.1), (0.6, 0.15))),
    (invariance, "q4", "a quadratic", own(OWN[:2], 0.6, (0.1, 0.1), (0.6, 0.15))),
    (invariance, "q4", "a saddle", own([(-1.0, 2, 0), *OWN[1:]], 0.6, (0.1, 0.1), (0.6, 0.15))),
    (invariance, "q4", "a stable start that is too near", own(OWN, 0.6, (0.01, 0.0), (0.6, 0.15))),
    (invariance, "q4", "no terms", own([], 0.6, (0.1, 0.1), (0.6, 0.15))),
]


# --- 3: no stationary points ---------------------------------------------------------------------------------

stationary = "no_stationary_points"


def _gradients(W, X, labels):
    logits = X @ W
    p = np.exp(logits - logits.max(1, keepdims=True))
    p /= p.sum(1, keepdims=True)
    return (X[:, :, None] * (p - np.eye(W.shape[1])[labels])[:, None]).reshape(len(X), -1)


@right(stationary, "q1")
def noise(W, X, labels):
    """by automatic differentiation"""
    gradients = []
    for x, label in zip(torch.tensor(X), torch.tensor(labels), strict=True):
        w = torch.tensor(W, requires_grad=True)
        torch.nn.functional.cross_entropy((x @ w)[None], label[None]).backward()
        gradients.append(w.grad.numpy().ravel())
    return np.sqrt(np.var(gradients, axis=0).sum())


@wrong(stationary, "q1")
def noise(W, X, labels):
    """the second moment: the mean is not subtracted"""
    return np.sqrt((_gradients(W, X, labels) ** 2).sum(1).mean())


@wrong(stationary, "q1")
def noise(W, X, labels):
    """the variance: without the root"""
    return _gradients(W, X, labels).var(0).sum()


@wrong(stationary, "q1")
def noise(W, X, labels):
    """N − 1"""
    return np.sqrt(_gradients(W, X, labels).var(0, ddof=1).sum())


@wrong(stationary, "q1")
def noise(W, X, labels):
    """the mean over the coordinates"""
    return np.sqrt(_gradients(W, X, labels).var(0).mean())


@wrong(stationary, "q1")
def noise(W, X, labels):
    """exp overflows"""
    p = np.exp(X @ W)
    p /= p.sum(1, keepdims=True)
    return np.sqrt((X[:, :, None] * (p - np.eye(W.shape[1])[labels])[:, None]).var(0).sum())


@right(stationary, "q2")
def time_averages(values):
    """by a running sum"""
    averages, total = [], 0
    for m, value in enumerate(values, start=1):
        total = total + value
        averages.append(total / m)
    return averages


@wrong(stationary, "q2")
def time_averages(values):
    """over all axes"""
    return (np.cumsum(values) / np.arange(1, values.size + 1)).reshape(values.shape)


@wrong(stationary, "q2")
def time_averages(values):
    """divided by n"""
    return np.cumsum(values, axis=0) / len(values)


@wrong(stationary, "q2")
def time_averages(values):
    """counted from 0"""
    return (np.cumsum(values, axis=0).T / np.maximum(1, np.arange(len(values)))).T


@wrong(stationary, "q2")
def time_averages(values):
    """of one series only"""
    return np.cumsum(values) / np.arange(1, len(values) + 1)


@right(stationary, "q3")
def expected_changes(values):
    """without the telescope"""
    return abs(np.cumsum(values[:-1] - values[1:])) / np.arange(1, len(values))


@wrong(stationary, "q3")
def expected_changes(values):
    """the modulus inside of the mean"""
    return np.cumsum(abs(values[:-1] - values[1:])) / np.arange(1, len(values))


@wrong(stationary, "q3")
def expected_changes(values):
    """with its sign"""
    return (values[0] - values[1:]) / np.arange(1, len(values))


@wrong(stationary, "q3")
def expected_changes(values):
    """one point late"""
    return abs(values[1] - values[1:]) / np.arange(1, len(values))


@wrong(stationary, "q3")
def expected_changes(values):
    """not divided by m"""
    return abs(values[0] - values[1:])


def _half_angle(step_size, factor=2.0):
    """The u in (0, π) with 100η sin u = factor · u."""
    low, high = 1e-6, np.pi
    for _ in range(200):
        middle = (low + high) / 2
        low, high = (middle, high) if 100 * step_size * np.sin(middle) > factor * middle else (low, middle)
    return low


@right(stationary, "q4")
def cycle(step_size):
    """by hand, in phase along one diagonal"""
    u = _half_angle(step_size)
    return np.array([[u + u + np.pi, u - u - np.pi], [-u - u + np.pi, -u + u - np.pi]]) / 2


@right(stationary, "q4")
def cycle(step_size):
    """by hand, in opposite phases, and many periods away"""
    u = _half_angle(step_size)
    w = -u + np.pi
    return np.array([[u + w, u - w], [-u + 2 * np.pi - w, -u - 2 * np.pi + w]]) / 2 + 20 * np.pi


@wrong(stationary, "q4")
def cycle(step_size):
    """a minimum, twice"""
    return np.full((2, 2), np.pi / 2) * np.array([1, -1])


@wrong(stationary, "q4")
def cycle(step_size):
    """u and w themselves instead of θ"""
    u = _half_angle(step_size)
    return np.array([[u, u], [-u, -u]])


@wrong(stationary, "q4")
def cycle(step_size):
    """100η sin u = u"""
    u = _half_angle(step_size, factor=1.0)
    return np.array([[u + u + np.pi, u - u - np.pi], [-u - u + np.pi, -u + u - np.pi]]) / 2


@wrong(stationary, "q4")
def cycle(step_size):
    """one coordinate at rest, where a push makes it leave"""
    u = _half_angle(step_size)
    return np.array([[u + np.pi, u - np.pi], [-u + np.pi, -u - np.pi]]) / 2


@wrong(stationary, "q4")
def cycle(step_size):
    """not run for long enough"""
    theta = np.array([1.0, 2.0])
    for _ in range(5):
        before, theta = theta, theta - 100 * step_size * np.cos(theta) * np.sin(theta[::-1])
    return np.array([before, theta])


# --- 4: self-stabilization -----------------------------------------------------------------------------------

stabilization = "self_stabilization"


@right(stabilization, "q1")
def lanczos(hvp, start, products):
    """by the QR decomposition of the growing basis"""
    basis = start[:, None] / np.linalg.norm(start)
    images = np.empty((len(start), 0))
    for _ in range(min(products, len(start))):
        images = np.column_stack([images, hvp(basis[:, -1])])
        extended, r = np.linalg.qr(np.column_stack([basis, images[:, -1]]))
        if abs(r[-1, -1]) < 1e-11 * np.linalg.norm(images[:, -1]):
            break
        basis = np.column_stack([basis, extended[:, -1]])
    basis = basis[:, : images.shape[1]]
    values, vectors = np.linalg.eigh(basis.T @ images)
    return values[-1], basis @ vectors[:, -1]


@wrong(stabilization, "q1")
def lanczos(hvp, start, products):
    """power iteration"""
    v = start / np.linalg.norm(start)
    for _ in range(products - 1):
        w = hvp(v)
        v = w / np.linalg.norm(w)
    return v @ hvp(v), v


def _krylov(hvp, start, products, pick, again=2):
    basis, images, q = [], [], start / np.linalg.norm(start)
    for _ in range(min(products, len(start))):
        basis.append(q)
        images.append(hvp(q))
        rest, Q = images[-1], np.array(basis)
        for _ in range(again):
            rest = rest - Q.T @ (Q @ rest)
        if np.linalg.norm(rest) <= 1e-12 * np.linalg.norm(images[-1]):
            break
        q = rest / np.linalg.norm(rest)
    Q = np.array(basis)
    values, vectors = np.linalg.eigh(Q @ np.array(images).T)
    i = pick(values)
    return values[i], Q.T @ vectors[:, i]


@wrong(stabilization, "q1")
def lanczos(hvp, start, products):
    """the largest in modulus"""
    return _krylov(hvp, start, products, lambda values: np.argmax(abs(values)))


@wrong(stabilization, "q1")
def lanczos(hvp, start, products):
    """from a random vector instead of the start"""
    return _krylov(hvp, np.random.default_rng(0).standard_normal(len(start)), products, lambda values: -1)


@wrong(stabilization, "q1")
def lanczos(hvp, start, products):
    """the vector of the small matrix"""
    value, u = _krylov(hvp, start, products, lambda values: -1)
    return value, 2 * u


@wrong(stabilization, "q1")
def lanczos(hvp, start, products):
    """more products than allowed"""
    return _krylov(hvp, start, products + 30, lambda values: -1)


@right(stabilization, "q2")
def sharpness_gradient(loss, theta):
    """by central differences of the eigenvalue"""

    def largest(point):
        return torch.linalg.eigvalsh(torch.autograd.functional.hessian(loss, point))[-1].item()

    return np.array(
        [(largest(theta + 1e-4 * e) - largest(theta - 1e-4 * e)) / 2e-4 for e in torch.eye(len(theta)).double()]
    )


@right(stabilization, "q2")
def sharpness_gradient(loss, theta):
    """by the derivative of the eigenvalue"""
    return torch.func.grad(lambda point: torch.linalg.eigvalsh(torch.func.hessian(loss)(point))[-1])(theta)


@wrong(stabilization, "q2")
def sharpness_gradient(loss, theta):
    """of the trace"""
    return torch.func.grad(lambda point: torch.func.hessian(loss)(point).trace())(theta)


@wrong(stabilization, "q2")
def sharpness_gradient(loss, theta):
    """of the eigenvalue that is the largest in modulus"""

    def largest(point):
        values = torch.linalg.eigvalsh(torch.func.hessian(loss)(point))
        return values[values.abs().argmax()]

    return torch.func.grad(largest)(theta)


@wrong(stabilization, "q2")
def sharpness_gradient(loss, theta):
    """along the gradient instead of the eigenvector"""
    g = torch.func.grad(loss)(theta)
    g = g / g.norm()
    return torch.func.grad(lambda point: g @ torch.func.hessian(loss)(point) @ g)(theta)


@wrong(stabilization, "q2")
def sharpness_gradient(loss, theta):
    """the product ∇²L u"""
    hessian = torch.func.hessian(loss)(theta)
    return hessian @ torch.linalg.eigh(hessian).eigenvectors[:, -1]


def _predicted(x, y, steps, step):
    path = [(x, y)]
    for _ in range(steps):
        path.append(step(*path[-1]))
    return np.array(path).T


@right(stabilization, "q3")
def predicted(x, y, step_size, alpha, beta, steps):
    """by gradient descent on the toy loss"""

    def step(x, y):
        r = beta**0.5
        return x - step_size * (2 / step_size + y) * x, y - step_size * r * (r * x**2 / 2 - alpha / r)

    return _predicted(x, y, steps, step)


@wrong(stabilization, "q3")
def predicted(x, y, step_size, alpha, beta, steps):
    """the new x in the step of y"""
    xs, ys = [x], [y]
    for _ in range(steps):
        x = -(1 + step_size * y) * x
        y = y + step_size * (alpha - beta / 2 * x**2)
        xs.append(x)
        ys.append(y)
    return np.array(xs), np.array(ys)


@wrong(stabilization, "q3")
def predicted(x, y, step_size, alpha, beta, steps):
    """without the change of sign"""
    return _predicted(x, y, steps, lambda x, y: ((1 + step_size * y) * x, y + step_size * (alpha - beta / 2 * x**2)))


@wrong(stabilization, "q3")
def predicted(x, y, step_size, alpha, beta, steps):
    """without the half"""
    return _predicted(x, y, steps, lambda x, y: (-(1 + step_size * y) * x, y + step_size * (alpha - beta * x**2)))


@wrong(stabilization, "q3")
def predicted(x, y, step_size, alpha, beta, steps):
    """the start is missing"""
    x, y = _predicted(x, y, steps, lambda x, y: (-(1 + step_size * y) * x, y + step_size * (alpha - beta / 2 * x**2)))
    return x[1:], y[1:]


def _level(x0, alpha, beta):
    q = beta * x0**2 / (2 * alpha)
    return q - np.log(q) - 1


def _other_root(c):
    q = 1 + np.sqrt(2 * c) + c
    for _ in range(100):
        q -= (q - np.log(q) - 1 - c) / (1 - 1 / q)
    return q


@right(stabilization, "q4")
def extremes(x0, alpha, beta):
    """by Newton's method"""
    c = _level(x0, alpha, beta)
    return np.sqrt(2 * alpha / beta * _other_root(c)), np.sqrt(alpha * c)


@wrong(stabilization, "q4")
def extremes(x0, alpha, beta):
    """the bounds instead of the values"""
    delta = np.sqrt(2 * alpha / beta)
    return delta * (1 + np.sqrt(2 * np.log(delta / x0))), np.sqrt(2 * alpha * np.log(delta / x0))


@wrong(stabilization, "q4")
def extremes(x0, alpha, beta):
    """q instead of X, Y² instead of Y"""
    c = _level(x0, alpha, beta)
    return _other_root(c), alpha * c


@wrong(stabilization, "q4")
def extremes(x0, alpha, beta):
    """√α and δ forgotten"""
    c = _level(x0, alpha, beta)
    return np.sqrt(_other_root(c)), np.sqrt(c)


@wrong(stabilization, "q4")
def extremes(x0, alpha, beta):
    """the ellipse near the fixed point"""
    delta = np.sqrt(2 * alpha / beta)
    return 2 * delta - x0, np.sqrt(beta) * (delta - x0)


# --- 5: large learning rates ---------------------------------------------------------------------------------

large = "large_learning_rates"


def _smoothness(gradient, points):
    apart = np.linalg.norm(points[:, None] - points, axis=2) + np.eye(len(points))
    g = gradient(points)
    return (np.linalg.norm(g[:, None] - g, axis=2) / apart).max()


@right(large, "q1")
def constants(gradient, minimiser, points):
    """by all pairs in one array"""
    away = points - minimiser
    return np.min(np.sum(gradient(points) * away, 1) / np.linalg.norm(away, axis=1) ** 2), _smoothness(gradient, points)


@wrong(large, "q1")
def constants(gradient, minimiser, points):
    """the norm of the gradient instead of its component: μ cannot become negative"""
    ratios = np.linalg.norm(gradient(points), axis=1) / np.linalg.norm(points - minimiser, axis=1)
    return ratios.min(), _smoothness(gradient, points)


@wrong(large, "q1")
def constants(gradient, minimiser, points):
    """L from the pairs with the minimiser only"""
    away = points - minimiser
    g = gradient(points)
    return ((g * away).sum(1) / (away**2).sum(1)).min(), (
        np.linalg.norm(g, axis=1) / np.linalg.norm(away, axis=1)
    ).max()


@wrong(large, "q1")
def constants(gradient, minimiser, points):
    """the mean instead of the least"""
    away = points - minimiser
    return ((gradient(points) * away).sum(1) / (away**2).sum(1)).mean(), _smoothness(gradient, points)


@wrong(large, "q1")
def constants(gradient, minimiser, points):
    """towards 0 instead of the minimiser"""
    return ((gradient(points) * points).sum(1) / (points**2).sum(1)).min(), _smoothness(gradient, points)


@right(large, "q2")
def step_sizes(L, mu_star, mu_dagger):
    """by the condition on μ†"""
    return [2 / mu_dagger, mu_star / L / L] if mu_dagger * mu_star > 2 * L * L else None


@wrong(large, "q2")
def step_sizes(L, mu_star, mu_dagger):
    """an empty interval all the same"""
    return 2 / mu_dagger, mu_star / L**2


@wrong(large, "q2")
def step_sizes(L, mu_star, mu_dagger):
    """L instead of L²"""
    return (2 / mu_dagger, mu_star / L) if 2 / mu_dagger < mu_star / L else None


@wrong(large, "q2")
def step_sizes(L, mu_star, mu_dagger):
    """1/μ†"""
    return (1 / mu_dagger, mu_star / L**2) if 1 / mu_dagger < mu_star / L**2 else None


@wrong(large, "q2")
def step_sizes(L, mu_star, mu_dagger):
    """never"""


def _threshold(gradient, starts, steps, low, high, left):
    while high - low >= 1e-3 * low:
        middle, x = (low + high) / 2, starts
        for _ in range(steps):
            x = x - middle * gradient(x)
        low, high = (low, middle) if left(x) else (middle, high)
    return low, high


@right(large, "q3")
def escape_step_size(gradient, inside, starts, steps, low, high):
    """with a list of the starts that stay"""
    return _threshold(gradient, starts, steps, low, high, lambda x: not [i for i in range(len(x)) if inside(x)[i]])[1]


@wrong(large, "q3")
def escape_step_size(gradient, inside, starts, steps, low, high):
    """after one step only"""
    return _threshold(gradient, starts, 1, low, high, lambda x: not inside(x).any())[1]


@wrong(large, "q3")
def escape_step_size(gradient, inside, starts, steps, low, high):
    """the other half"""
    return _threshold(gradient, starts, steps, low, high, lambda x: inside(x).any())[1]


@wrong(large, "q3")
def escape_step_size(gradient, inside, starts, steps, low, high):
    """one of ten values"""
    for step_size in np.linspace(low, high, 10):
        x = starts
        for _ in range(steps):
            x = x - step_size * gradient(x)
        if not inside(x).any():
            return step_size


@wrong(large, "q3")
def escape_step_size(gradient, inside, starts, steps, low, high):
    """the first halving"""
    return (low + high) / 2


@right(large, "q4")
def sgd_with_repeats(gradient_of, batches, x, step_size, repeats):
    """by the repeated sequence"""
    path = [x]
    for batch in np.repeat(batches, repeats):
        path.append(path[-1] - step_size * gradient_of(path[-1], int(batch)))
    return path[::repeats]


@wrong(large, "q4")
def sgd_with_repeats(gradient_of, batches, x, step_size, repeats):
    """one large step"""
    path = [x]
    for batch in batches:
        path.append(path[-1] - repeats * step_size * gradient_of(path[-1], batch))
    return path


@wrong(large, "q4")
def sgd_with_repeats(gradient_of, batches, x, step_size, repeats):
    """the sequence repeated instead of each minibatch"""
    path = [x]
    for _ in range(repeats):
        for batch in batches:
            path.append(path[-1] - step_size * gradient_of(path[-1], batch))
    return path[::repeats]


@wrong(large, "q4")
def sgd_with_repeats(gradient_of, batches, x, step_size, repeats):
    """every point"""
    path = [x]
    for batch in batches:
        for _ in range(repeats):
            path.append(path[-1] - step_size * gradient_of(path[-1], batch))
    return path


@wrong(large, "q4")
def sgd_with_repeats(gradient_of, batches, x, step_size, repeats):
    """one step too many on each"""
    path = [x]
    for batch in batches:
        for _ in range(repeats + 1):
            x = x - step_size * gradient_of(x, batch)
        path.append(x)
    return path


@right(large, "q5")
def variances(k, step):
    """by the geometric series"""
    q = 1 - step
    return (1 - q ** (2 * k)) / (1 - q * q), ((1 - q**k) / step) ** 2


@wrong(large, "q5")
def variances(k, step):
    """to first order"""
    return k, k**2


@wrong(large, "q5")
def variances(k, step):
    """one term too many"""
    shrunk = (1 - step) ** np.arange(k + 1)
    return (shrunk**2).sum(), shrunk.sum() ** 2


@wrong(large, "q5")
def variances(k, step):
    """fresh: not squared"""
    shrunk = (1 - step) ** np.arange(k)
    return shrunk.sum(), shrunk.sum() ** 2


@wrong(large, "q5")
def variances(k, step):
    """exchanged"""
    shrunk = (1 - step) ** np.arange(k)
    return shrunk.sum() ** 2, (shrunk**2).sum()


# -------------------------------------------------------------------------------------------------------------


def cases(right):
    return [pytest.param(*case, id="-".join(case[:3])) for case in ANSWERS[right]]


@pytest.mark.parametrize(("assignment", "question", "what", "namespace"), cases(True))
def test_a_right_answer_gets_full_marks(assignment, question, what, namespace):
    for seed in ("a", "b"):
        assert mark(assignment, question, namespace, seed) == grading.Mark(1.0)


@pytest.mark.parametrize(("assignment", "question", "what", "namespace"), cases(False))
def test_a_wrong_answer_loses_marks_and_is_told_why(assignment, question, what, namespace):
    found = mark(assignment, question, namespace)
    assert found.share <= 0.9 and found.remarks


def test_every_code_question_has_a_right_and_three_wrong_answers():
    for folder in sorted(ASSIGNMENTS.glob("*/checks.py")):
        loaded = grading.load(folder.parent)
        assert sum(question.check is None for question in loaded.questions) == 2
        for question in loaded.questions:
            asked = [
                sum((assignment, name) == (loaded.name, question.name) for assignment, name, *_ in answers)
                for answers in (ANSWERS[True], ANSWERS[False])
            ]
            assert (asked >= [1, 3] and min(asked) >= 1) if question.check else question.guide, question.name


@pytest.mark.parametrize(("assignment", "question"), sorted({case[:2] for case in ANSWERS[True]}))
def test_no_answer_and_answers_of_no_use_get_nothing(assignment, question):
    name = next(iter(next(case[3] for case in ANSWERS[True] if case[:2] == (assignment, question))))
    assert mark(assignment, question, {}).share == 0
    assert mark(assignment, question, {name: lambda *_: None}).share == 0
    assert mark(assignment, question, {name: lambda *_: "a text"}).share == 0


@pytest.mark.parametrize("chapter", sorted(path.parent.name for path in ASSIGNMENTS.glob("*/assignment.py")))
def test_the_commands_of_the_experiments_are_understood(chapter):
    """Their parameters exist in the chapter and take these values."""
    text = (ASSIGNMENTS / chapter / "assignment.py").read_text()
    commands = [shlex.split(code) for code in re.findall(r"`((?:python -m eoslib|-p) [^`]*)`", text)]
    assert len(commands) >= 3
    for words in commands:
        assert words[0] == "-p" or words[4:5] == [chapter] or words[3:5] == ["run", chapter]
        given = [after for word, after in pairwise(words) if word in ("-p", "-g")]
        cases = [assignment.partition("=") for assignment in given]
        for name, _, value in cases:
            values = re.split(r",(?![^\[]*\])", value) if "-g" in words else [value]
            for each in values:
                presets.parameters(presets.chapter_path(chapter), "quick", {name: each})


@pytest.mark.parametrize("name", sorted(path.parent.name for path in ASSIGNMENTS.glob("*/checks.py")))
def test_the_lecturers_page_has_the_points_of_the_assignment(name):
    page = (ASSIGNMENTS.parent / "book" / "teach.md").read_text()
    (said,) = re.findall(rf"notebooks/{name}` \| [^|]* \| (\d+), (\d+) \|", page)
    by_code, by_hand = 0, 0
    for question in grading.load(ASSIGNMENTS / name).questions:
        by_code += question.points if question.check else 0
        by_hand += 0 if question.check else question.points
    assert (by_code, by_hand) == tuple(map(int, said))
